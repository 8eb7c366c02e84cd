"""A scratch state folder in which a node of a past run is executed again, as it was.

The node gets a compiled pipeline of its own: its parameters are the recorded values, its inputs the recorded artifacts,
copied into the scratch folder's metadata store; they are read where they lie. What is written, metadata too, is
written there.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import ml_metadata as mlmd
from google.protobuf import json_format
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.proto.orchestration import pipeline_pb2

from airtight.errors import TerminalError
from airtight.home import Home
from runtime import attempt_names, metadata_store
from runtime.client import Call
from runtime.compiled_pipeline import PUSHED, CompiledPipeline, Node
from runtime.lineage import recorded_run
from runtime.lineage.artifacts import DIGEST, Artifact
from runtime.local import link_lake
from runtime.protocol import REPLAY, NodeRequest, Outcome, Request

Do = Callable[[Request], Outcome]


@contextlib.contextmanager
def scratch(home: Home, keep: Path | None) -> Iterator[Home]:
    """Makes a state folder with nothing but the tables of the real one's lake, and these by links.

    Args:
      home: The real one.
      keep: Where it is made, to stay; None for a temporary folder, which is removed.

    Raises:
      TerminalError: There is something at that place.
    """
    if keep is not None and keep.exists():
        raise TerminalError(
            "What the replay makes cannot be kept there.",
            expected="a folder that does not exist yet",
            received=str(keep),
            remedy="Name another folder, or take this one away.",
        )
    folder = Path(tempfile.mkdtemp(prefix="airtight-replay-")) if keep is None else keep.resolve()
    try:
        place = Home(folder)
        link_lake(home, place)
        yield place
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)


class Stage:
    """Executes nodes of one past run again.

    Args:
      compiled: The pipeline as it is now.
      run: The run.
      place: The scratch state folder.
      home: The real one, whose lake is read and whose warm launcher is asked, if there is one.
      do: Does a request instead of the launcher or a new process.
    """

    def __init__(
        self, compiled: CompiledPipeline, run: recorded_run.Run, place: Home, home: Home, do: Do | None
    ) -> None:
        self._compiled, self._run, self._place, self._do = compiled, run, place, do
        self._launcher, self._lake = home.launcher_socket, home.lake
        self._ir = json_format.ParseDict(compiled.ir, pipeline_pb2.Pipeline())
        self._deployment = runner_utils.extract_local_deployment_config(self._ir)
        chosen = self._deployment.metadata_connection_config.database_connection_config
        chosen.CopyFrom(metadata.sqlite_metadata_connection_config(str(place.metadata_db)))
        # What the pipeline itself chose must not be written.
        self._ir.deployment_config.Pack(self._deployment)
        self._ir.runtime_spec.pipeline_root.runtime_parameter.ClearField("default_value")
        self._copied: dict[int, int] = {}

    def why_not(self, node: Node) -> str:
        """Why a node's result is no function of its inputs, or cannot be had here; "" for one that can be replayed."""
        if PUSHED in node.outputs.values():
            return "it acts on the world: it pushes models"
        if node.ends:
            return f"it acts on the world: it gives back what {node.ends} took"
        if node.id not in self._deployment.executor_specs:
            return "it computes nothing: TFX finds what is there, and the nodes after it are given what it found then"
        if not node.cache.enabled:
            return "the pipeline keeps no result of it (its cache is off), as where a node acts on the world"
        where = next((name for name in ("image", "interpreter") if node.airflow.get(name)), "")
        return f"it runs elsewhere ({where} {node.airflow[where]})" if where else ""

    def execute(self, node: Node, past: recorded_run.Execution) -> tuple[Outcome, recorded_run.Execution | None]:
        """Executes a node with what is recorded of it.

        Args:
          node: The node.
          past: Its execution in the run.

        Returns:
          What became of it, and the new execution if it came so far.
        """
        request = self._request(node, past)
        outcome = self._answer(request)
        with self._store() as store:
            # One that failed is in the store, too, though its outcome does not name it.
            name = attempt_names.context_name(request.run, request.node, request.attempt)
            attempt = store.get_context_by_type_and_name(attempt_names.CONTEXT_TYPE, name)
            made = (
                [recorded_run.execution(store, e) for e in store.get_executions_by_context(attempt.id)]
                if attempt
                else []
            )
        for execution in made:
            outside = execution.parts.get("outside", {})
            # The lake's tables are the real ones, wherever the links to them lie.
            outside |= {key: value.replace(str(self._place.lake), str(self._lake)) for key, value in outside.items()}
        return outcome, made[0] if made else None

    def _request(self, node: Node, past: recorded_run.Execution) -> NodeRequest:
        return NodeRequest(
            compiled=str(self._written(node, past)),
            node=node.id,
            run=self._run.key,
            attempt=uuid.uuid4().hex,
            home=str(self._place.path),
            labels={"run_id": self._run.id, REPLAY: self._run.key},
            use_cache=False,
        )

    def _answer(self, request: NodeRequest) -> Outcome:
        if self._do:
            return self._do(request)
        log = self._place.logs / f"{request.node}.log"
        log.parent.mkdir(exist_ok=True)
        with Call(request, self._launcher) as started, log.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in started.lines())
            return started.outcome

    def _written(self, node: Node, past: recorded_run.Execution) -> Path:
        """A compiled pipeline in which the node has the recorded values and artifacts, and waits for nothing."""
        ir = pipeline_pb2.Pipeline()
        ir.CopyFrom(self._ir)
        proto = next(n.pipeline_node for n in ir.nodes if n.pipeline_node.node_info.id == node.id)
        for name, value in proto.parameters.parameters.items():
            if name in past.parameters:
                value.field_value.CopyFrom(past.parameters[name])
        inputs = pipeline_pb2.NodeInputs()
        with self._store() as store:
            for key, spec in proto.inputs.inputs.items():
                given = inputs.inputs[key]
                given.min_count, given.hidden = spec.min_count, spec.hidden
                given.static_inputs.SetInParent()
                given.static_inputs.artifact_ids.extend(self._copy(store, a) for a in past.inputs.get(key, ()))
        proto.inputs.CopyFrom(inputs)
        ir_json = json_format.MessageToDict(ir, preserving_proto_field_name=True)
        path = self._place.compiled / f"{node.id}.json"
        replace(self._compiled, ir=ir_json, parameters=(), required=(), interval=False).write(path)
        return path

    def _copy(self, store: mlmd.MetadataStore, artifact: Artifact) -> int:
        """The artifact in the scratch store, at its own place; what it holds is looked at anew."""
        known = artifact.proto.id
        if known not in self._copied:
            kind, proto = type(artifact.type)(), type(artifact.proto)()
            kind.CopyFrom(artifact.type)
            proto.CopyFrom(artifact.proto)
            for copy in (kind, proto):
                copy.ClearField("id")
            proto.custom_properties.pop(DIGEST, None)
            proto.state = proto.LIVE
            proto.type_id = store.put_artifact_type(kind, can_add_fields=True, can_omit_fields=True)
            (self._copied[known],) = store.put_artifacts([proto])
        return self._copied[known]

    @contextlib.contextmanager
    def _store(self) -> Iterator[mlmd.MetadataStore]:
        with metadata_store.connection(self._deployment, self._place) as handle:
            yield handle.store
