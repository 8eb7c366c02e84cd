"""The DAGs of a declared stream: `<stream>_stream` keeps its job running, `<stream>_stop` ends it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import DAG

from plugins.tfx_airflow.stream import EnsureStream, StopStream, WatchStream

COMMON: dict[str, Any] = {
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
}
"""Of every DAG about a stream."""
KEEPING = """
# The stream {stream}

**ensure** starts the job where it does not run, and again with a savepoint where the code of the checkout is newer.
**watch** holds no worker; it fails, with the reason, when the job does not do its work, and ends well after an hour.
The next run begins at once, and starts a job that ended from its last checkpoint. How it does at this moment is on the
tab **Stream**.

Unpause `{stream}_stream` to have the job run. Pausing it leaves the job alone; to end it, pause the DAG and trigger
`{stream}_stop`. It goes on where it was, without a lost or doubled window.
"""


def stream_dags(stream: str, declaration: str = "", *, description: str, **settings: Any) -> dict[str, DAG]:
    """Two DAGs of one stream.

    Args:
      stream: Name of the job, which is the declaration's.
      declaration: Name of a pipeline, or import string of the declaration; "" is the stream's name.
      description: What the stream is, for people.
      **settings: More of both DAGs, such as `tags` and `doc_md`.

    Returns:
      The DAGs by id, for the globals of the file.
    """
    named: dict[str, Any] = {"stream": stream, "declaration": declaration or stream}
    common: dict[str, Any] = {"doc_md": KEEPING.format(stream=stream), "tags": ["stream"], **COMMON, **settings}
    with DAG(
        f"{stream}_stream",
        description=f"Keeps the stream running, and says where it does not: {description}",
        schedule="@continuous",
        # A run that fails is followed by the next at once. What cannot be started fails within seconds and is left to a
        # person; a broker that is away, seen after some minutes each time, may stay so for half an hour.
        max_consecutive_failed_dag_runs=12,
        is_paused_upon_creation=True,
        **common,
    ) as keeping:
        EnsureStream(task_id="ensure", **named) >> WatchStream(task_id="watch", **named)
    with DAG(
        f"{stream}_stop",
        description=f"Stops the stream {stream} with a savepoint; pause {stream}_stream first.",
        schedule=None,
        is_paused_upon_creation=False,
        **common,
    ) as stopping:
        StopStream(task_id="stop", **named)
    return {dag.dag_id: dag for dag in (keeping, stopping)}
