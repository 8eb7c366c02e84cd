"""# Flight delays: the stream

Keeps the stream of flights running, which computes from each departure and arrival what the model sees of the next
flights. **ensure** starts it with what it needs (Kafka, Flink's job server), or again when the code of the checkout is
newer; **watch** tells its lag, watermark and dead letters, and holds no worker. When it ends, stands still or has new
code, or an hour is over, the run ends, and the next one begins at once. How it does at this moment is on the tab
**Stream**.

Unpause this DAG to have the stream run. Pausing it leaves the stream alone; to end it, pause the DAG and then
`python -m services down stream`. Wherever the stream is stopped or killed, it goes on where it was, without a lost or
doubled window.
"""

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from plugins.tfx_airflow.stream import EnsureStream, WatchStream

STREAM = {"stream": "flight_delays", "module": "pipelines.flight_delays.stream"}

with DAG(
    "flight_delays_stream",
    doc_md=__doc__,
    description="Keeps the stream of flights running, upgrades it, and tells how far behind it is.",
    schedule="@continuous",
    start_date=pendulum.datetime(2013, 1, 1),
    max_active_runs=1,
    # A run that fails is followed by the next at once: a stream that cannot be started is left to a person.
    max_consecutive_failed_dag_runs=3,
    catchup=False,
    is_paused_upon_creation=True,
    default_args={
        "owner": "airtight",
        "retries": 5,
        "retry_delay": timedelta(seconds=10),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=5),
    },
    tags=["stream", "flights"],
):
    EnsureStream(task_id="ensure", **STREAM) >> WatchStream(task_id="watch", **STREAM)
