# One image for Airflow, the launcher and Spark: the project has one lock (docs/adr/0001-one-environment-one-lock.md).
FROM python:3.11-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 50000 --gid 0 --no-create-home --home-dir /state airtight \
    && install -d -o airtight -g 0 -m 0750 /state

WORKDIR /opt/airtight
COPY requirements.txt .
# Byte-compiled here: the user below cannot write into the packages, and would compile them anew at each start.
RUN pip install --no-cache-dir "$(grep -E '^uv==' requirements.txt)" \
    && uv pip install --system --no-cache --no-deps --compile-bytecode -r requirements.txt
COPY . .
RUN python -m compileall -q airtight commands components dags pipelines plugins runtime services serving

ENV PYTHONPATH=/opt/airtight PYTHONUNBUFFERED=1 AIRTIGHT_HOME=/state AIRFLOW_HOME=/state/airflow
USER airtight
VOLUME /state
ENTRYPOINT ["tini", "--"]
