"""A run of a pipeline in this process, node by node, as tasks would do it."""

import json
import uuid
from pathlib import Path

from ml_metadata.proto.metadata_store_pb2 import Execution

from airtight.home import Home
from runtime import metadata_store
from runtime.compile import compile_pipeline
from runtime.launch import launch
from runtime.protocol import NodeRequest, Outcome

TINY = "tests.tiny_pipeline.pipeline:create_pipeline"
JUNE = {"interval_start": "2013-06-01T00:00:00-04:00", "interval_end": "2013-07-01T00:00:00-04:00"}


class Run:
    """One run of a pipeline, node by node, as tasks would do it."""

    def __init__(self, home: Home, source: str = TINY, run: str = "run", **values: str | int | float) -> None:
        self.home = home
        self.run = run
        self.values = JUNE | values
        self.compiled = compile_pipeline(source, home, only_if_stale=True)

    def request(self, node: str, **values: str | int | float) -> NodeRequest:
        return NodeRequest(
            compiled=str(self.compiled),
            node=node,
            run=self.run,
            attempt=uuid.uuid4().hex,
            home=str(self.home.path),
            parameters=self.values | values,
        )

    def node(self, node: str, **values: str | int | float) -> Outcome:
        return launch(self.request(node, **values))


def states(run: Run) -> list[str]:
    """States of all executions in the metadata store, the oldest first."""
    with metadata_store.project_connection(run.home) as handle:
        executions = sorted(handle.store.get_executions(), key=lambda execution: execution.id)
        return [Execution.State.Name(execution.last_known_state) for execution in executions]


def uri(outcome: Outcome, key: str) -> Path:
    """The folder of the only artifact of a key."""
    assert outcome.state in ("complete", "cached"), outcome.summary
    (artifact,) = outcome.outputs[key]
    return Path(artifact["uri"])


def fault(outcome: Outcome) -> dict:
    """The fault of a failed outcome."""
    assert outcome.state == "failed", outcome.summary
    return json.loads(outcome.error)
