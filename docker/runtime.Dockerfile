# Two images. `runtime`, for Airflow, the launcher, Spark and the pipelines' Python: the project has one lock
# (docs/adr/0001-one-environment-one-lock.md). `flink`: Flink's own, with the locked jars on its class path.
FROM python:3.11-slim-bookworm AS runtime

RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 50000 --gid 0 --no-create-home --home-dir /state airtight \
    && install -d -o airtight -g 0 -m 0750 /state \
    # Of Flink's user: a volume is made with the owner of the folder that it is first mounted at.
    && install -d -o 9999 -g 9999 /checkpoints

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

# Beam's runner, Kafka's client and our source, which is compiled here.
FROM runtime AS jars
USER root
ENV XDG_CACHE_HOME=/tmp/cache AIRTIGHT_HOME=/tmp/home
# A path of classes names folders as `folder/*`. Flink's image has a logger of its own.
RUN mkdir /jars && IFS=: && for jar in $(python -m services.flink_jars); do cp "$jar" /jars/; done \
    && rm /jars/slf4j-simple-*.jar

# The Flink of requirements/flink.jars. Its class path is in the order of names: airtight-*.jar, which corrects a class of
# Beam's, comes first.
FROM flink:1.19.0-java17 AS flink
COPY --from=jars /jars/ /opt/flink/lib/
RUN install -d -o flink -g flink /checkpoints /artifacts
