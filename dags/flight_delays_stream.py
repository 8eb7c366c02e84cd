"""# Streams of flights

| DAG | what runs |
|---|---|
| `flight_delays_stream` | a job of Flink: what the model sees of the next flights, from each departure and arrival |
| `flight_delays_predictions_stream` | a job of Flink: volume, latency and scores of the prediction log |
| `flight_delays_learning_stream` | every ten minutes: models that learn from each arrival, beside the deployed model |

The first two have the same tasks. **ensure** starts the job where it does not run, and again with a savepoint where the
code of the checkout is newer. **watch** holds no worker; it fails, with the reason, when the job has failed, stands
still, completes no checkpoint, or uses ever more memory, and ends well after an hour. The next run begins at once, and
starts a job that ended from its last checkpoint. How it does at this moment is on the tab **Stream**.

Unpause a DAG to have its job run. Pausing it leaves the job alone; to end it, pause the DAG and trigger
`<stream>_stop`. It goes on where it was, without a lost or doubled window.
"""

import os
from datetime import timedelta

import pendulum
from airflow.sdk import DAG

from plugins.tfx_airflow.command import RunModule
from plugins.tfx_airflow.stream import EnsureStream, StopStream, WatchStream

COMMON = {
    "doc_md": __doc__,
    "start_date": pendulum.datetime(2013, 1, 1),
    "max_active_runs": 1,
    "catchup": False,
    "default_args": {
        "owner": "airtight",
        "retries": 5,
        "retry_delay": timedelta(seconds=10),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=5),
    },
    "tags": ["stream", "flights"],
}
STREAMS = {
    "flight_delays": {
        "description": "Keeps the stream of flights running, upgrades it, and fails with the reason where it does not.",
        "declaration": "flight_delays",
    },
    "flight_delays_predictions": {
        "description": "Keeps the windows over the prediction log running, where the model server logs to Kafka.",
        "declaration": "pipelines.flight_delays.streams:PREDICTIONS",
    },
}
"""By the name of the stream; a DAG of its own for each, because each is wanted, paused and repaired for itself, and one
that cannot start must not end the runs of the others."""

for stream, settings in STREAMS.items():
    with DAG(
        f"{stream}_stream",
        description=settings["description"],
        schedule="@continuous",
        # A run that fails is followed by the next at once: what cannot be started is left to a person.
        max_consecutive_failed_dag_runs=3,
        is_paused_upon_creation=True,
        **COMMON,
    ):
        same = {"stream": stream, "declaration": settings["declaration"]}
        EnsureStream(task_id="ensure", **same) >> WatchStream(task_id="watch", **same)
    with DAG(
        f"{stream}_stop",
        description=f"Stops the stream {stream} with a savepoint; pause {stream}_stream first.",
        schedule=None,
        is_paused_upon_creation=False,
        **COMMON,
    ):
        StopStream(task_id="stop", **same)

with DAG(
    "flight_delays_learning_stream",
    description="Has the models learn that learn flight by flight, beside the deployed model's answers.",
    schedule=timedelta(minutes=10),
    is_paused_upon_creation=True,
    **COMMON,
):
    RunModule(
        task_id="learn",
        module="streaming.learning",
        # The router, as clients do.
        arguments=(
            "flight_delays",
            "--topic",
            *("--server", f"http://127.0.0.1:{os.environ.get('AIRTIGHT_MODEL_REST_PORT', '8501')}"),
        ),
        doc_md="Predicts and learns from the hours that are over since the last run, and writes the page of the tab.",
    )
