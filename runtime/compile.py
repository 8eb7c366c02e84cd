"""Compiles a TFX pipeline, and refuses what no launcher could run, by node and reason."""

from __future__ import annotations

import fcntl
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import tfx.version
from google.protobuf import json_format, text_format
from tfx.dsl.compiler import compiler
from tfx.dsl.components.base import base_component, base_node
from tfx.orchestration import pipeline as tfx_pipeline
from tfx.orchestration.local import runner_utils
from tfx.proto.orchestration import pipeline_pb2
from tfx.proto.orchestration.local_deployment_config_pb2 import LocalDeploymentConfig

from airtight import fingerprint
from airtight.errors import AirtightError, TerminalError
from airtight.files import digest_of_file
from airtight.home import ROOT, Home
from airtight.import_string import load
from airtight.parameters import Parameter
from runtime import node_inputs
from runtime.compiled_pipeline import ENDED_ANYHOW, PUSHED, Cache, CompiledPipeline, Node, path_of
from runtime.parameters import INTERVAL, found_in
from runtime.task_options import AFTER_PREVIOUS, CACHE, chosen_for

_IR_FILES = {".json": "JSON", ".pbtxt": "text", ".pb": "binary"}
_OURS = ("runtime.compile", "runtime.parameters", "runtime.task_options", "runtime.resolvers", "runtime.node_inputs")
_Trigger = pipeline_pb2.NodeExecutionOptions.TriggerStrategy


def compile_pipeline(source: str, home: Home | None = None) -> Path:
    """Compiles one pipeline and writes the result.

    Args:
      source: A folder of `pipelines/`, `package.module:function` that gives a TFX pipeline, or the path of an IR file.
      home: The state folder.

    Returns:
      Path of the compiled pipeline.

    Raises:
      TerminalError: The pipeline cannot be found, does not compile, or cannot be run.
    """
    path = path_of(source, home or Home.current())
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fingerprint.look_again()
        compiled = _of_file(Path(source)) if Path(source).suffix in _IR_FILES else _of_code(source)
        compiled.write(path)
    return path


def _of_code(source: str) -> CompiledPipeline:
    name = source if ":" in source else f"pipelines.{source}.pipeline:create_pipeline"
    try:
        create: Callable[[], Any] = load(name)
        pipeline = create()
        if not isinstance(pipeline, tfx_pipeline.Pipeline):
            raise TypeError(f"{name} gave a {type(pipeline).__name__}, not a TFX Pipeline")
        ir = compiler.Compiler().compile(pipeline)
    except AirtightError:
        raise
    except Exception as error:
        raise _does_not_compile(source, error) from error
    module = sys.modules[name.partition(":")[0]]
    nodes = {node.id: node for node in pipeline.components if isinstance(node, base_node.BaseNode)}
    return _compiled(source, ir, module, nodes, _digests())


def _of_file(path: Path) -> CompiledPipeline:
    ir = pipeline_pb2.Pipeline()
    try:
        if path.suffix == ".pb":
            ir.ParseFromString(path.read_bytes())
        else:
            parse = json_format.Parse if path.suffix == ".json" else text_format.Parse
            parse(path.read_text(encoding="utf-8"), ir)
    except (OSError, json_format.ParseError, text_format.ParseError, ValueError) as error:
        raise _does_not_compile(str(path), error) from error
    return _compiled(str(path), ir, None, {}, {str(path.resolve()): digest_of_file(path)})


def _compiled(
    source: str,
    ir: pipeline_pb2.Pipeline,
    module: ModuleType | None,
    nodes: dict[str, base_node.BaseNode],
    digests: dict[str, str],
) -> CompiledPipeline:
    _refuse_what_cannot_run(ir)
    parameters, required = _parameters(source, ir, module)
    deployment = runner_utils.extract_local_deployment_config(ir)
    return CompiledPipeline(
        source=source,
        pipeline=ir.pipeline_info.id,
        doc=inspect.cleandoc(module.__doc__ or "") if module else "",
        zone=getattr(module, "ZONE", "UTC"),
        parameters=parameters,
        required=required,
        interval=bool(set(INTERVAL) & set(found_in(ir))),
        nodes=tuple(_node(n.pipeline_node, nodes.get(n.pipeline_node.node_info.id), deployment) for n in ir.nodes),
        types=_modules_of_types(nodes.values()),
        sources=digests,
        tfx=tfx.version.__version__,
        ir=json_format.MessageToDict(ir, preserving_proto_field_name=True),
    )


def _node(proto: pipeline_pb2.PipelineNode, node: base_node.BaseNode | None, deployment: LocalDeploymentConfig) -> Node:
    options = proto.execution_options
    chosen = chosen_for(node) if node else {}
    return Node(
        id=proto.node_info.id,
        type=proto.node_info.type.name.rsplit(".", 1)[-1],
        upstream=tuple(proto.upstream_nodes),
        needs=node_inputs.needs(proto),
        may_skip=node_inputs.may_skip(proto),
        doc=_doc(node) if node else "",
        outputs={key: spec.artifact_spec.type.name for key, spec in sorted(proto.outputs.outputs.items())},
        retries=options.max_execution_retries if options.HasField("max_execution_retries") else None,
        timeout_s=options.execution_timeout_sec,
        trigger=_Trigger.Name(options.strategy) if options.strategy else "",
        ends=options.resource_lifetime.lifetime_start,
        after_previous=chosen.get(AFTER_PREVIOUS, ""),
        airflow={name: value for name, value in chosen.items() if name not in (*CACHE, AFTER_PREVIOUS)},
        cache=_cache(proto, chosen, deployment),
    )


def _cache(proto: pipeline_pb2.PipelineNode, chosen: dict[str, Any], deployment: LocalDeploymentConfig) -> Cache:
    """The node's cache, and its component's code: its executor's, and what its parameters name as code."""
    executor = runner_utils.extract_executor_spec(deployment, proto.node_info.id)
    if executor is None:
        # TFX runs resolvers and importers itself, and anew each time.
        return Cache()
    python = getattr(executor, "python_executor_spec", executor)
    on = str(chosen.get("cache_on", ""))
    modules = [getattr(python, "class_path", "").rpartition(".")[0], on.partition(":")[0]]
    for value in proto.parameters.parameters.values():
        told = value.runtime_parameter.default_value if value.HasField("runtime_parameter") else value.field_value
        modules.append(fingerprint.module_of(told.string_value))
    files, distributions = fingerprint.closure(modules)
    # What was pushed lies outside of the outputs, where nobody knows whether it is still there.
    pushes = any(spec.artifact_spec.type.name == PUSHED for spec in proto.outputs.outputs.values())
    enabled = bool(chosen.get("cache", proto.execution_options.caching_options.enable_cache and not pushes))
    return Cache(enabled, float(chosen.get("cache_days", 0)), on, files, distributions)


def _modules_of_types(nodes: Iterable[base_node.BaseNode]) -> tuple[str, ...]:
    """Modules of artifact types that TFX does not bring; a node must import them before it reads its inputs."""
    channels = [channel for node in nodes for channel in (*node.inputs.values(), *node.outputs.values())]
    modules = {channel.type.__module__ for channel in channels}
    return tuple(sorted(module for module in modules if not module.startswith("tfx.")))


def _parameters(
    source: str, ir: pipeline_pb2.Pipeline, module: ModuleType | None
) -> tuple[tuple[Parameter, ...], tuple[str, ...]]:
    """The pipeline's own PARAMETERS, which must be those that it uses; without them, what its code waits for."""
    found = {name: told for name, told in found_in(ir).items() if name not in INTERVAL}
    declared: tuple[Parameter, ...] | None = getattr(module, "PARAMETERS", None)
    if declared is None:
        return tuple(p for p, _ in found.values()), tuple(name for name, (_, must) in found.items() if must)
    kinds = {p.name: p.type for p in declared}
    used = {name: p.type for name, (p, _) in found.items()}
    # A bool is an int to TFX.
    if {name: "int" if kind == "bool" else kind for name, kind in kinds.items()} != used:
        raise TerminalError(
            f"The pipeline {source} declares other parameters than it uses.",
            expected=f"PARAMETERS with {', '.join(f'{n} ({t})' for n, t in sorted(used.items())) or 'nothing'}",
            received=", ".join(f"{n} ({t})" for n, t in sorted(kinds.items())) or "nothing",
            remedy="List each Parameter that is given to a component in PARAMETERS, and no other.",
        )
    return declared, ()


def _refuse_what_cannot_run(ir: pipeline_pb2.Pipeline) -> None:
    if ir.execution_mode != pipeline_pb2.Pipeline.SYNC:
        raise _refusal(ir, "the pipeline", "it is asynchronous, and a DAG run is a synchronous run")
    for entry in ir.nodes:
        if entry.WhichOneof("node") == "sub_pipeline":
            name = entry.sub_pipeline.pipeline_info.id
            raise _refusal(
                ir, f"the node {name}", "it is a pipeline in a pipeline, which TFX's open launcher cannot run"
            )
    for entry in ir.nodes:
        if why := _cannot_be_timed(ir, entry.pipeline_node):
            raise _refusal(ir, f"the node {entry.pipeline_node.node_info.id}", *why)


def _cannot_be_timed(ir: pipeline_pb2.Pipeline, node: pipeline_pb2.PipelineNode) -> tuple[str, str] | None:
    """Why a node cannot run when its execution options say, and what to do."""
    options, nodes = node.execution_options, {n.pipeline_node.node_info.id: n.pipeline_node for n in ir.nodes}
    if options.node_success_optional:
        return (
            "its success is optional (success_optional), and the run would be green over its failure",
            "Catch in the component what may fail, and write what became of it into an artifact.",
        )
    start = options.resource_lifetime.lifetime_start
    if start and options.strategy != _Trigger.LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS:
        return (
            f"it ends what {start} begins (lifetime_start), but has another trigger strategy",
            "Give it the trigger strategy LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS.",
        )
    before, waiting = set(), [*node.upstream_nodes] if start else []
    while waiting:
        name = waiting.pop()
        if name not in before:
            before.add(name)
            waiting += nodes[name].upstream_nodes
    if start and start not in before:
        return (
            f"it ends what {start} begins (lifetime_start), and does not come after it",
            f"Add {start}, or what comes after it, to its upstream nodes.",
        )
    begins = {n.execution_options.resource_lifetime.lifetime_start for n in nodes.values()}
    if _Trigger.Name(options.strategy) in ENDED_ANYHOW and begins & set(node.upstream_nodes):
        return (
            f"it runs though {', '.join(begins & set(node.upstream_nodes))}, whose resource it uses, may have failed",
            "Give it the usual trigger strategy.",
        )
    return None


def _refusal(
    ir: pipeline_pb2.Pipeline,
    what: str,
    why: str,
    remedy: str = "Write the step as one component that handles the list, or as a pipeline of its own.",
) -> TerminalError:
    return TerminalError(
        f"The pipeline {ir.pipeline_info.id} cannot run as a DAG: {what} cannot be mapped, because {why}.",
        expected="a synchronous pipeline of components, resolvers, importers and conditions",
        received=what,
        remedy=remedy,
    )


def _doc(node: base_node.BaseNode) -> str:
    function = None
    if isinstance(node, base_component.BaseComponent):
        function = getattr(getattr(node.executor_spec, "executor_class", None), "_FUNCTION", None)
    return inspect.cleandoc((function or type(node)).__doc__ or "")


def _digests() -> dict[str, str]:
    """Digests of every imported module that is neither Python's nor an installed package's."""
    digests = {}
    for name, module in sorted(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "")
        tool = name.startswith(("runtime", "plugins", "__main__", "_virtualenv")) and name not in _OURS
        if tool or file.suffix != ".py" or not file.is_file() or fingerprint.is_foreign(file):
            continue
        inside = file.resolve().is_relative_to(ROOT)
        digests[str(file.resolve().relative_to(ROOT) if inside else file.resolve())] = digest_of_file(file)
    return digests


def _does_not_compile(source: str, error: Exception) -> TerminalError:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return TerminalError(
        f"The pipeline {source} does not compile.",
        expected="a function that returns a TFX pipeline, or a file with its IR",
        received=f"{type(error).__name__}: {error}{where}",
        remedy="Correct the pipeline; `python -m runtime compile` shows the same error.",
    )
