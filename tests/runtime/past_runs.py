"""Fills a metadata store with past runs: executions, artifacts and contexts of the shape of a compiled pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import ml_metadata as mlmd
from google.protobuf import json_format
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.portable import launcher  # noqa: F401 - registers the messages that a compiled pipeline holds
from tfx.orchestration.portable.mlmd import event_lib
from tfx.proto.orchestration import pipeline_pb2

from airtight.home import Home
from runtime.attempt_names import CONTEXT_TYPE
from runtime.compiled_pipeline import CompiledPipeline

ZONE = ZoneInfo("America/New_York")
FIRST = datetime(1900, 1, 1, tzinfo=ZONE)
_Value = str | int | float
_EMPTY: dict[int, _Value] = {metadata_store_pb2.INT: 1, metadata_store_pb2.DOUBLE: 0.5, metadata_store_pb2.STRING: "-"}
_Made = dict[tuple[str, str], metadata_store_pb2.Artifact]
_FLAGS = {"PushedModel": "pushed", "ModelBlessing": "blessed", "InfraBlessing": "blessed"}


@dataclass
class PastRuns:
    """Writes runs of one pipeline, one after the other, each of the month after the one before.

    Args:
      store: The metadata store.
      home: The state folder, under which the artifacts are said to lie.
      compiled: The pipeline.
      pushed: Whether the runs push their models.
    """

    store: mlmd.MetadataStore
    home: Home
    compiled: CompiledPipeline
    pushed: bool = True

    def __post_init__(self) -> None:
        self._ir = json_format.ParseDict(self.compiled.ir, pipeline_pb2.Pipeline())
        self._nodes = [node.pipeline_node for node in self._ir.nodes]
        self._context_types: dict[str, int] = {}
        self._types: dict[str, int] = {}
        self._contexts: dict[tuple[str, str], metadata_store_pb2.Context] = {}
        self._before: _Made = {}

    def write(self, numbers: Iterator[int] | range) -> list[int]:
        """Writes the runs of these numbers, from 0; the number is the month's, counted from 1900.

        Returns:
          The executions' ids.
        """
        return [execution for number in numbers for execution in self._run(number)]

    def _run(self, number: int) -> Iterator[int]:
        run: str = f"run-{number:05}"
        made: _Made = {}
        for node in self._nodes:
            name = node.node_info.id
            outputs = self._outputs(node, number, run, made)
            inputs = [
                (artifact, event_lib.generate_event(metadata_store_pb2.Event.INPUT, key, 0))
                for key, spec in node.inputs.inputs.items()
                if not spec.hidden and (artifact := self._of_channel(spec, made))
            ]
            is_resolver = node.node_info.type.name.endswith("Resolver")
            execution = metadata_store_pb2.Execution(
                type_id=self._execution_type(node), last_known_state=metadata_store_pb2.Execution.COMPLETE
            )
            execution.custom_properties["parameters"].string_value = "x" * 200
            kind = metadata_store_pb2.Event.INTERNAL_OUTPUT if is_resolver else metadata_store_pb2.Event.OUTPUT
            pairs = [] if is_resolver else inputs
            pairs += [(a, event_lib.generate_event(kind, key, 0)) for key, a in outputs.items()]
            number_of, ids, _ = self.store.put_execution(
                execution,
                pairs,
                list(self._around(node, run, number)),
                reuse_context_if_already_exist=True,
                force_reuse_context=True,
            )
            for (artifact, _), identity in zip(pairs, ids, strict=True):
                artifact.id = identity
            made |= {(name, key): artifact for key, artifact in outputs.items()}
            yield number_of
        self._before = made

    def _outputs(
        self,
        node: pipeline_pb2.PipelineNode,
        number: int,
        run: str,
        made: _Made,
    ) -> dict[str, metadata_store_pb2.Artifact]:
        name = node.node_info.id
        if node.node_info.type.name.endswith("Resolver"):
            (graph,) = node.inputs.input_graphs.values()
            keys = next(n.dict_node.node_ids for n in graph.nodes.values() if n.HasField("dict_node"))
            chosen = {
                key: self._of_channel(node.inputs.inputs[graph.nodes[input_].input_node.input_key], made)
                for key, input_ in keys.items()
            }
            # Each artifact once: the champion is none of the earlier ones.
            once = {id(chosen[key]): key for key in ("earlier", *chosen) if chosen.get(key) is not None}
            return {key: chosen[key] for key in once.values()}
        return {
            key: self._artifact(name, key, spec.artifact_spec.type, number, run)
            for key, spec in node.outputs.outputs.items()
        }

    def _of_channel(self, spec: pipeline_pb2.InputSpec, made: _Made) -> metadata_store_pb2.Artifact | None:
        """What an input gets: from this run, or across runs from the run before."""
        for channel in spec.channels:
            producer = channel.producer_node_query.id
            if producer:
                return made.get((producer, channel.output_key))
            node = next(q.name.field_value.string_value for q in channel.context_queries if q.type.name == "node")
            return self._before.get((node.rpartition(".")[2], channel.output_key))
        return None

    def _artifact(
        self, node: str, key: str, type_: metadata_store_pb2.ArtifactType, number: int, run: str
    ) -> metadata_store_pb2.Artifact:
        if type_.name not in self._types:
            self._types[type_.name] = self.store.put_artifact_type(type_)
        start, end = month(number)
        values: dict[str, _Value] = {name: _EMPTY[kind] for name, kind in type_.properties.items() if kind in _EMPTY}
        values |= {"interval_start": start, "interval_end": end, "content_digest": "0" * 64}
        if type_.name == "PushedModel":
            values |= {"model_uri": self.uri("train", "model", run), "version": version(number)}
        if type_.name == "Promotion":
            values |= {"to_version": version(number), "as_of": end}
        if type_.name in _FLAGS:
            values[_FLAGS[type_.name]] = int(self.pushed)
        artifact = metadata_store_pb2.Artifact(
            type_id=self._types[type_.name], uri=self.uri(node, key, run), state=metadata_store_pb2.Artifact.LIVE
        )
        for name, value in values.items():
            holder = artifact.properties if name in type_.properties else artifact.custom_properties
            _set(holder[name], value)
        return artifact

    def uri(self, node: str, key: str, run: str) -> str:
        """Where an output lies."""
        return str(self.home.pipeline_root(self.compiled.pipeline) / node / key / run)

    def _around(self, node: pipeline_pb2.PipelineNode, run: str, number: int) -> Iterator[metadata_store_pb2.Context]:
        name, pipeline = node.node_info.id, self.compiled.pipeline
        yield self._context("pipeline", pipeline)
        yield self._context("pipeline_run", run)
        yield self._context("node", f"{pipeline}.{name}")
        yield self._context(CONTEXT_TYPE, f"{run}/{name}/{number:032}", owner="host boot 1 1", folder="", run_id=run)

    def _context(self, kind: str, name: str, **values: _Value) -> metadata_store_pb2.Context:
        known = self._contexts.get((kind, name))
        if known is not None:
            return known
        if kind not in self._context_types:
            self._context_types[kind] = self.store.put_context_type(metadata_store_pb2.ContextType(name=kind))
        context = metadata_store_pb2.Context(type_id=self._context_types[kind], name=name)
        for key, value in values.items():
            _set(context.custom_properties[key], value)
        if kind != CONTEXT_TYPE:
            stored = self.store.get_context_by_type_and_name(kind, name)
            context.id = stored.id if stored else self.store.put_contexts([context])[0]
            self._contexts[kind, name] = context
            if kind == "pipeline_run":
                parent = self._contexts["pipeline", self.compiled.pipeline].id
                edge = metadata_store_pb2.ParentContext(child_id=context.id, parent_id=parent)
                if not stored:
                    self.store.put_parent_contexts([edge])
        return context

    def _execution_type(self, node: pipeline_pb2.PipelineNode) -> int:
        name = f"execution {node.node_info.type.name}"
        if name not in self._types:
            self._types[name] = self.store.put_execution_type(node.node_info.type)
        return self._types[name]


def month(number: int) -> tuple[str, str]:
    """Start and end of a month counted from 1900, ISO 8601 in the zone of the flights."""
    ends = [FIRST.replace(year=1900 + n // 12, month=1 + n % 12) for n in (number, number + 1)]
    return ends[0].isoformat(), ends[1].isoformat()


def version(number: int) -> int:
    """Of the model that a month's run pushes."""
    return int(datetime.fromisoformat(month(number)[1]).strftime("%Y%m%d01"))


def _set(target: metadata_store_pb2.Value, value: _Value) -> None:
    if isinstance(value, int):
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    else:
        target.string_value = value
