"""# Streams of flights

| DAG | what runs |
|---|---|
| `flight_delays_stream` | a job of Flink: what the model sees of the next flights, from each departure and arrival |
| `flight_delays_predictions_stream` | a job of Flink: volume, latency and scores of the prediction log |
| `flight_delays_learning_stream` | every ten minutes: models that learn from each arrival, beside the deployed model |

The first two have the same tasks. **ensure** starts the job where it does not run, and again with a savepoint where the
code of the checkout is newer. **watch** holds no worker; it fails, with the reason, when the job has failed, stands
still, completes no checkpoint, or uses ever more memory, when the broker is away, messages are dropped as late or the
store has lost something, and ends well after an hour. The next run begins at once, and starts a job that ended from its
last checkpoint. How it does at this moment is on the tab **Stream**.

Unpause a DAG to have its job run. Pausing it leaves the job alone; to end it, pause the DAG and trigger
`<stream>_stop`. It goes on where it was, without a lost or doubled window.
"""

import os
from datetime import timedelta

from airflow.sdk import DAG

from plugins.tfx_airflow.command import RunModule
from plugins.tfx_airflow.stream_dags import COMMON, stream_dags

SAME = {"doc_md": __doc__, "tags": ["stream", "flights"]}
STREAMS = {
    "flight_delays": {
        "description": "what the model sees of the next flights.",
        "declaration": "flight_delays",
    },
    "flight_delays_predictions": {
        "description": "windows over the prediction log, where the model server logs to Kafka.",
        "declaration": "pipelines.flight_delays.streams:PREDICTIONS",
    },
}
"""By the name of the stream; a DAG of its own for each, because each is wanted, paused and repaired for itself, and one
that cannot start must not end the runs of the others."""

for stream, settings in STREAMS.items():
    globals().update(stream_dags(stream, **settings, **SAME))

with DAG(
    "flight_delays_learning_stream",
    description="Has the models learn that learn flight by flight, beside the deployed model's answers.",
    schedule=timedelta(minutes=10),
    is_paused_upon_creation=True,
    **COMMON,
    **SAME,
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
