"""# Programs that follow a topic

Three programs live as long as the topics that they follow. Each has a DAG of its own, all of the same two tasks:

| DAG | program of the local services | what it does |
|---|---|---|
| `flight_delays_stream` | stream | computes from each departure and arrival what the model sees of the next flights |
| `flight_delays_predictions_stream` | prediction-windows | volume, latency and scores of the prediction log |
| `flight_delays_learning_stream` | online-learning | learns from each arrival, beside the deployed model |

**ensure** starts the program with what it needs, or again when the code of the checkout is newer; it fails, and says
so, where there is no topic to read. **watch** tells its lag, watermark and dead letters, and holds no worker. When the
program ends, stands still or has new code, or an hour is over, the run ends, and the next one begins at once. How it
does at this moment is on the tab **Stream**.

Unpause a DAG to have its program run. Pausing it leaves the program alone; to end it, pause the DAG and then
`python -m services down <program>`. Wherever it is stopped or killed, it goes on where it was, without a lost or
doubled window or label.
"""

from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from plugins.tfx_airflow.stream import EnsureStream, WatchStream

DAGS = {
    "flight_delays": {
        "description": "Keeps the stream of flights running, upgrades it, and tells how far behind it is.",
        "program": "stream",
        "module": "pipelines.flight_delays.stream",
        "topic": "flights.events",
        "needs": ("kafka", "flink-local"),
    },
    "flight_delays_predictions": {
        "description": "Keeps the windows over the prediction log running, where the model server logs to Kafka.",
        "program": "prediction-windows",
        "module": "pipelines.flight_delays.stream",
        "topic": "flights.predictions",
        "needs": ("kafka", "flink-local"),
    },
    "flight_delays_learning": {
        "description": "Keeps the models learning that learn flight by flight, beside the deployed model's answers.",
        "program": "online-learning",
        "module": "pipelines.flight_delays.online_learning",
        "topic": "flights.events",
        "needs": ("kafka", "model-server", "router"),
    },
}
"""By the name of the stream, which is that of its record; a DAG of its own for each, because each is wanted, paused and
repaired for itself, and one that cannot start must not end the runs of the others."""

for stream, told in DAGS.items():
    with DAG(
        f"{stream}_stream",
        doc_md=__doc__,
        description=told["description"],
        schedule="@continuous",
        start_date=pendulum.datetime(2013, 1, 1),
        max_active_runs=1,
        # A run that fails is followed by the next at once: what cannot be started is left to a person.
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
        same = {name: told[name] for name in ("program", "module")}
        ensure = EnsureStream(task_id="ensure", stream=stream, topic=told["topic"], needs=told["needs"], **same)
        ensure >> WatchStream(task_id="watch", stream=stream, **same)
