"""Compiles a TFX pipeline, and refuses what no launcher could run, by node and reason."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
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
from airtight.home import ROOT, Home
from airtight.interval import time_zone
from airtight.parameters import Parameter
from runtime import compile_checks, compile_places, node_inputs
from runtime.compile_inputs import recording
from runtime.compile_sources import function_of, module_of
from runtime.compiled_pipeline import PUSHED, Cache, CompiledPipeline, Node, fingerprint_of, safe_id
from runtime.compiled_store import absolute, folder_of, is_ir_file, keep, publish, usable
from runtime.parameters import INTERVAL, Declaration, awaited_parameters, declared
from runtime.task_options import AFTER_PREVIOUS, CACHE, HISTORY_DAYS, chosen_for

_OURS = (
    *("runtime.compile", "runtime.compile_checks", "runtime.compile_inputs", "runtime.compile_places"),
    "runtime.compile_sources",
    *("runtime.parameters", "runtime.task_options", "runtime.resolvers", "runtime.node_inputs"),
)
"""Modules of this package that a compiled pipeline is made of."""
_TOOLS = ("runtime", "plugins", "__main__", "_virtualenv")
_Trigger = pipeline_pb2.NodeExecutionOptions.TriggerStrategy


def compile_pipeline(
    source: str,
    home: Home | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    make_current: bool = True,
    only_if_stale: bool = False,
) -> Path:
    """Compiles one pipeline and writes the result.

    Args:
      source: Id of a pipeline of `pipelines/`, `package.module:attribute` that is a function or settings, or the path
        of an IR file.
      home: The state folder.
      arguments: What the function is called with, JSON values.
      make_current: Whether DAGs use the result from now on.
      only_if_stale: Take a result that is there already, and made of what there is now.

    Returns:
      Path of the compiled pipeline.

    Raises:
      TerminalError: The pipeline cannot be found, does not compile, or cannot be run.
    """
    home, source = home or Home.current(), absolute(source)
    folder = folder_of(source, home, arguments)
    # As they are when they come back from the file.
    given: dict[str, Any] = json.loads(json.dumps(arguments or {}))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        # Of several that want it at once, one compiles, and the others find it made.
        fcntl.flock(lock, fcntl.LOCK_EX)
        fingerprint.look_again()
        compiled = usable(source, home, given) if only_if_stale else None
        if compiled is None:
            compiled = _of_file(source, given) if is_ir_file(source) else _of_code(source, given, home)
        return publish(compiled, home) if make_current else keep(compiled, home)


def _of_code(source: str, arguments: dict[str, Any], home: Home) -> CompiledPipeline:
    module_name = module_of(source)
    environment = dict(os.environ)
    # A relative entry would mean another folder from here on.
    sys.path[:] = [os.path.abspath(path) for path in sys.path]
    folder = fingerprint.folder_of(module_name) or ROOT
    with recording(home) as inputs, contextlib.chdir(folder):
        try:
            create = function_of(source)
            _check_arguments(source, create, arguments)
            pipeline = create(**arguments)
            if not isinstance(pipeline, tfx_pipeline.Pipeline):
                raise TypeError(f"{source} gave a {type(pipeline).__name__}, not a TFX Pipeline")
            ir = compiler.Compiler().compile(pipeline)
        except AirtightError:
            raise
        except Exception as error:
            raise _does_not_compile(source, error) from error
    nodes = {node.id: node for node in pipeline.components if isinstance(node, base_node.BaseNode)}
    module = sys.modules[module_name]
    of_module = Declaration(
        getattr(module, "PARAMETERS", None), getattr(module, "ZONE", "UTC"), inspect.cleandoc(module.__doc__ or "")
    )
    compiled = _compiled(source, ir, declared(pipeline) or of_module, nodes, folder)
    names = [name for name in sys.modules if name in _OURS or name.partition(".")[0] not in _TOOLS]
    # A function of its own would take the place of the settings that a folder of pipelines/ has.
    name = f"pipelines/{source}/pipeline.py"
    own = {} if ":" in source else {name: fingerprint_of(ROOT / name)}
    sources = dict(sorted((_fingerprints(names) | inputs.files() | own).items()))
    return replace(
        compiled,
        sources=sources,
        arguments=arguments,
        environment=inputs.variables(environment),
        paths=_paths(sources),
    )


def _of_file(source: str, arguments: dict[str, Any]) -> CompiledPipeline:
    path, ir = Path(source), pipeline_pb2.Pipeline()
    if arguments:
        raise TerminalError(
            f"The pipeline {source} takes no arguments.",
            expected="a function that makes the pipeline, package.module:function",
            received=f"an IR file, and the arguments {', '.join(arguments)}",
            remedy="Leave the arguments out, or name the function.",
        )
    try:
        if path.suffix == ".pb":
            ir.ParseFromString(path.read_bytes())
        else:
            parse = json_format.Parse if path.suffix == ".json" else text_format.Parse
            parse(path.read_text(encoding="utf-8"), ir)
    except (OSError, json_format.ParseError, text_format.ParseError, ValueError) as error:
        raise _does_not_compile(source, error) from error
    sources = _fingerprints(_OURS) | {source: fingerprint_of(path)}
    return replace(_compiled(source, ir, Declaration(None), {}, path.parent), sources=sources)


def _compiled(
    source: str,
    ir: pipeline_pb2.Pipeline,
    declaration: Declaration,
    nodes: dict[str, base_node.BaseNode],
    folder: Path,
) -> CompiledPipeline:
    """What the IR and the pipeline's declaration say; what it was made of is still to be filled in.

    Args:
      source: What is compiled.
      ir: Its IR, in which places are made absolute.
      declaration: What its function or the function's module says of it.
      nodes: Its nodes by id, as far as they are known.
      folder: Where its relative paths begin, and its nodes run.
    """
    compile_checks.refuse_what_cannot_run(ir)
    compile_places.settle(ir, folder)
    time_zone(declaration.zone)
    parameters, required = _parameters(source, ir, declaration.parameters)
    deployment = runner_utils.extract_local_deployment_config(ir)
    tasks = _task_ids([n.pipeline_node.node_info.id for n in ir.nodes])
    return CompiledPipeline(
        source=source,
        pipeline=ir.pipeline_info.id,
        doc=declaration.doc,
        zone=declaration.zone,
        parameters=parameters,
        required=required,
        interval=bool(set(INTERVAL) & set(awaited_parameters(ir))),
        nodes=tuple(
            replace(_node(n.pipeline_node, nodes.get(n.pipeline_node.node_info.id), deployment), task=task)
            for n, task in zip(ir.nodes, tasks, strict=True)
        ),
        types=_modules_of_types(nodes.values()),
        sources={},
        tfx=tfx.version.__version__,
        ir=json_format.MessageToDict(ir, preserving_proto_field_name=True),
        folder=fingerprint.path_in_checkout(folder),
    )


def _check_arguments(source: str, create: Callable[..., Any], arguments: dict[str, Any]) -> None:
    signature = inspect.signature(create)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise TerminalError(
            f"The pipeline {source} cannot be made with these arguments: {error}.",
            expected=f"arguments {signature}",
            received=", ".join(arguments) or "none",
            remedy="Give them as TfxDag(..., arguments={...}), or as --arg name=value on the command line.",
        ) from error


def _task_ids(ids: list[str]) -> list[str]:
    """Ids that Airflow takes, each another one: it refuses blanks and most signs."""
    tasks: list[str] = []
    for name in ids:
        task = safe = safe_id(name)
        number = 2
        while task in tasks or (task != name and task in ids):
            task, number = f"{safe}_{number}", number + 1
        tasks.append(task)
    return tasks


def _paths(sources: Iterable[str]) -> tuple[str, ...]:
    """The folders on Python's path, beside the checkout, in which the pipeline's modules lie."""
    outside = [Path(name) for name in sources if name.startswith("/")]
    own = (path for path in sys.path if Path(path) != ROOT and not fingerprint.is_foreign(Path(path)))
    return tuple(path for path in own if any(file.is_relative_to(path) for file in outside))


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
        history_days=chosen.get(HISTORY_DAYS, 0),
        airflow={name: value for name, value in chosen.items() if name not in (*CACHE, AFTER_PREVIOUS, HISTORY_DAYS)},
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
        own = value.runtime_parameter.default_value if value.HasField("runtime_parameter") else value.field_value
        modules.append(fingerprint.module_of(own.string_value))
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
    source: str, ir: pipeline_pb2.Pipeline, own: tuple[Parameter, ...] | None
) -> tuple[tuple[Parameter, ...], tuple[str, ...]]:
    """The pipeline's own parameters, which must be those that it uses; without them, what its code waits for."""
    awaited = {name: parameter for name, parameter in awaited_parameters(ir).items() if name not in INTERVAL}
    if own is None:
        return tuple(p for p, _ in awaited.values()), tuple(name for name, (_, must) in awaited.items() if must)
    kinds = {p.name: p.type for p in own}
    used = {name: p.type for name, (p, _) in awaited.items()}
    # A bool is an int to TFX.
    if {name: "int" if kind == "bool" else kind for name, kind in kinds.items()} != used:
        raise TerminalError(
            f"The pipeline {source} declares other parameters than it uses.",
            expected=f"PARAMETERS with {', '.join(f'{n} ({t})' for n, t in sorted(used.items())) or 'nothing'}",
            received=", ".join(f"{n} ({t})" for n, t in sorted(kinds.items())) or "nothing",
            remedy="List each Parameter that is given to a component in PARAMETERS, and no other.",
        )
    return own, ()


def _doc(node: base_node.BaseNode) -> str:
    function = None
    if isinstance(node, base_component.BaseComponent):
        function = getattr(getattr(node.executor_spec, "executor_class", None), "_FUNCTION", None)
    return inspect.cleandoc((function or type(node)).__doc__ or "")


def _fingerprints(names: Iterable[str]) -> dict[str, str]:
    """The `fingerprint_of` the sources of those modules that are imported, and neither Python's nor installed."""
    files = (Path(getattr(sys.modules.get(name), "__file__", None) or "") for name in names)
    own = (file for file in files if file.suffix == ".py" and file.is_file() and not fingerprint.is_foreign(file))
    return {fingerprint.path_in_checkout(file): fingerprint_of(file) for file in own}


def _does_not_compile(source: str, error: Exception) -> TerminalError:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return TerminalError(
        f"The pipeline {source} does not compile.",
        expected="a function that returns a TFX pipeline, or a file with its IR",
        received=f"{type(error).__name__}: {error}{where}",
        remedy="Correct the pipeline; `python -m runtime compile` shows the same error.",
    )
