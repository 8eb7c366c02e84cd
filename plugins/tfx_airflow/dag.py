"""Renders a compiled TFX pipeline: one task for each node, its edges, its options, a typed trigger form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, TaskGroup

from airtight.errors import TerminalError
from airtight.home import Home
from plugins.tfx_airflow.airflow_compat import current_dag
from plugins.tfx_airflow.operator import TfxNodeOperator
from plugins.tfx_airflow.params import form, merged
from plugins.tfx_airflow.previous_run_gate import AwaitPrevious
from runtime import compiled_store
from runtime.compiled_pipeline import ENDED_ANYHOW, CompiledPipeline, Node, safe_id
from runtime.fresh_pipelines import fresh

SUCCEEDED = "succeeded"
"""The task that fails a run of which a node failed, where what ends a resource ended well: Airflow asks the last tasks
alone how a run went."""
ALL_SUCCESS, NONE_FAILED = "all_success", "none_failed"
"""Trigger rules: the usual one, and that of a task which may run although tasks before it were skipped."""
_SECONDS = {"timeout_s": "execution_timeout", "retry_delay_s": "retry_delay"}


def TfxDag(
    pipeline: str | CompiledPipeline,
    *,
    arguments: dict[str, Any] | None = None,
    dag_id: str = "",
    params: dict[str, Any] | None = None,
    **kwargs: Any,
) -> DAG:
    """Gives an Airflow DAG for a TFX pipeline.

    Args:
      pipeline: Id of a pipeline of `pipelines/`, `package.module:function` that returns a TFX pipeline, or the absolute
        path of an IR file; or a pipeline that `runtime.fresh_pipelines` gave compiled. A module may lie in the DAG
        folder, too.
      arguments: What the function is called with, JSON values.
      dag_id: The DAG's id; the pipeline's own by default.
      params: Further params, or others in place of the pipeline's.
      **kwargs: As for `airflow.sdk.DAG`.

    Raises:
      AirtightError: The pipeline does not compile; it names the pipeline and the cause.
    """
    compiled = _fresh(pipeline, arguments) if isinstance(pipeline, str) else pipeline
    kwargs.setdefault("doc_md", compiled.doc or None)
    dag_id = dag_id or safe_id(compiled.pipeline)
    fields: dict[str, Any] = merged(form(compiled), params or {}, dag_id)
    with DAG(dag_id, params=fields, **kwargs) as dag:
        _tasks(compiled)
    return dag


def TfxTaskGroup(
    pipeline: str,
    *,
    arguments: dict[str, Any] | None = None,
    group_id: str = "",
    prefix: str = "",
    overrides: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> TaskGroup:
    """Gives a task group for a TFX pipeline, inside the DAG that is being defined.

    It may stand in a mapped task group: each index is a run of its own in the lineage.

    Args:
      pipeline: As for `TfxDag`.
      arguments: As for `TfxDag`.
      group_id: The group's id; the pipeline's own by default.
      prefix: Put before the names of the pipeline's parameters in the DAG's params.
      overrides: Values of the pipeline's parameters that win over the form's, such as those of a mapped task group.
      **kwargs: As for `airflow.sdk.TaskGroup`.

    Raises:
      TerminalError: There is no DAG around it, or it has a param of the same name and another type.
      AirtightError: The pipeline does not compile.
    """
    dag = kwargs.get("dag") or current_dag()
    if dag is None:
        raise TerminalError(
            f"The task group of {pipeline} stands outside of a DAG.",
            expected="`with DAG(...):` around TfxTaskGroup",
            received="no current DAG",
            remedy="Move it into the DAG, or use TfxDag.",
        )
    compiled = _fresh(pipeline, arguments)
    own = {name: dag.params.get_param(name) for name in dag.params}
    for name, param in merged(form(compiled, prefix), own, dag.dag_id).items():
        dag.params[name] = param
    with TaskGroup(group_id or safe_id(compiled.pipeline).replace(".", "_"), **kwargs) as group:
        _tasks(compiled, prefix=prefix, group=group.group_id or "", overrides=overrides)
    return group


def _fresh(pipeline: str, arguments: dict[str, Any] | None) -> CompiledPipeline:
    if compiled_store.is_ir_file(pipeline) and not Path(pipeline).is_absolute():
        raise TerminalError(
            f"The place of the IR file {pipeline} depends on where Airflow's processes were started.",
            expected="an absolute path",
            received=repr(pipeline),
            remedy=f'Write str(Path(__file__).parent / "{Path(pipeline).name}") for a file beside the DAG file.',
        )
    return fresh(pipeline, Home.current(), arguments=arguments)


def _tasks(
    compiled: CompiledPipeline, prefix: str = "", group: str = "", overrides: Mapping[str, Any] | None = None
) -> None:
    name = compiled_store.name_of(compiled, Home.current())
    tasks: dict[str, BaseOperator] = {}
    nodes, gates = _with_gates(compiled.nodes)
    skippable = _skippable(nodes)
    for node in compiled.nodes:
        tasks[node.id] = TfxNodeOperator(
            task_id=node.task,
            pipeline=compiled.source,
            compiled=name,
            node=node.id,
            node_type=node.type,
            parameter_names=[parameter.name for parameter in compiled.parameters],
            prefix=prefix,
            group=group,
            overrides=overrides,
            **_options(nodes[node.id], skippable),
        )
    for gate, until in gates.items():
        rule = _rule(nodes[gate], skippable)
        needs = _needs_behind(gate, nodes, skippable) if rule == NONE_FAILED else []
        tasks[gate] = AwaitPrevious(
            task_id=safe_id(gate),
            until=tasks[until].task_id,
            zone=compiled.zone,
            pipeline=compiled.pipeline,
            needs=[[tasks[up].task_id for up in names] for names in needs],
            trigger_rule=rule,
        )
    for node in compiled.nodes:
        if tasks[node.id].trigger_rule == NONE_FAILED:
            tasks[node.id].needs = [[tasks[up].task_id for up in names] for names in _needs(node.id, nodes, skippable)]
    for node in nodes.values():
        for upstream in _direct(node, nodes, skippable):
            tasks[upstream] >> tasks[node.id]
        if node.ends:
            # Airflow's own word for it: Clear of what lies between runs both again, and its failure is the run's.
            tasks[node.id].as_teardown(setups=tasks[node.ends], on_failure_fail_dagrun=True)
    teardowns = {tasks[node.id].task_id for node in compiled.nodes if node.ends}
    last = [task for task in tasks.values() if not task.is_teardown and task.downstream_task_ids <= teardowns]
    if teardowns:
        last >> EmptyOperator(task_id=SUCCEEDED, trigger_rule=NONE_FAILED)


def _with_gates(nodes: tuple[Node, ...]) -> tuple[dict[str, Node], dict[str, str]]:
    """The nodes, and one more before all that wait for the same node of the run before.

    The gate comes after all that those nodes need beside each other, so that it asks as late as it can.

    Returns:
      The nodes by id, and for each gate's id the node that it waits for.
    """
    by_id = {node.id: node for node in nodes}
    gates = {}
    for until in dict.fromkeys(node.after_previous for node in nodes if node.after_previous):
        gate = f"await_previous_{until}"
        waiting = [node for node in nodes if node.after_previous == until]
        inside = {node.id for node in waiting}
        needed = dict.fromkeys(up for node in waiting for up in node.upstream if up not in inside)
        by_id[gate] = Node(gate, AwaitPrevious.__name__, tuple(needed))
        for node in waiting:
            by_id[node.id] = replace(node, upstream=(gate, *node.upstream))
        gates[gate] = until
    return by_id, gates


def _skippable(nodes: dict[str, Node]) -> set[str]:
    """Ids of the nodes that may be skipped: by their own decision, or for want of another's output."""
    skippable: set[str] = set()
    for name in TopologicalSorter({node.id: node.upstream for node in nodes.values()}).static_order():
        if nodes[name].may_skip or any(skippable.issuperset(names) for names in nodes[name].needs):
            skippable.add(name)
    return skippable


def _rule(node: Node, skippable: set[str]) -> str:
    """The trigger rule of a node's task.

    Airflow's usual rule skips a task as soon as one before it was skipped: too often, where the node can do without
    that one's output, and too early, where another before it may still fail, which a skipped last task would hide.
    """
    if node.trigger in ENDED_ANYHOW:
        return "all_done"
    is_only_need = node.needs == (node.upstream,) and len(node.upstream) == 1
    return NONE_FAILED if skippable.intersection(node.upstream) and not is_only_need else ALL_SUCCESS


def _needs(name: str, nodes: dict[str, Node], skippable: set[str]) -> list[tuple[str, ...]]:
    """For each thing that a node cannot do without, the nodes of which one at least must not have been skipped.

    Beside its inputs' producers these are the nodes before it that only something outside of the pipeline skips, a
    branch around its task group: it skips the whole pipeline, with what merely follows a skipped node.
    """
    firm = dict.fromkeys(nodes[name].needs)
    seen, waiting = {name}, [name]
    while waiting:
        upstream = set(nodes[waiting.pop()].upstream) - seen
        seen |= upstream
        waiting += upstream & skippable
        firm |= dict.fromkeys((up,) for up in sorted(upstream - skippable))
    return list(firm)


def _needs_behind(gate: str, nodes: dict[str, Node], skippable: set[str]) -> list[tuple[str, ...]]:
    """What all nodes behind a gate cannot do without, so that the gate has nothing to wait for where it was skipped."""
    needs = {node.id: _needs(node.id, nodes, skippable) for node in nodes.values() if gate in node.upstream}
    # A node that needs another one behind the gate is skipped with that one, and says nothing more.
    first = [of_node for of_node in needs.values() if not any((other,) in of_node for other in needs)]
    return [names for names in first[0] if names != (gate,) and all(names in of_node for of_node in first)]


def _direct(node: Node, nodes: dict[str, Node], skippable: set[str]) -> list[str]:
    """The upstream nodes that no other stands between, so that the graph shows what follows what and no more.

    Only where every node on the way waits for success: there the longer way says all that the shorter one does.
    """
    if not _waits_for_success(node, skippable):
        return list(node.upstream)
    implied: set[str] = set()
    seen: set[str] = set()
    front = set(node.upstream)
    while front:
        seen |= front
        waiting = [nodes[between] for between in front if _waits_for_success(nodes[between], skippable)]
        implied.update(up for between in waiting for up in between.upstream)
        front = implied - seen
    return [up for up in node.upstream if up not in implied]


def _waits_for_success(node: Node, skippable: set[str]) -> bool:
    is_plain = "trigger_rule" not in node.airflow and not node.ends
    return is_plain and _rule(node, skippable) == ALL_SUCCESS


def _options(node: Node, skippable: set[str]) -> dict[str, Any]:
    """The task's arguments: what TFX's own options say, then what the pipeline's code chose for Airflow."""
    options: dict[str, Any] = {"doc_md": _doc(node), "trigger_rule": _rule(node, skippable)}
    if node.retries is not None:
        options["retries"] = node.retries
    if node.timeout_s:
        options["execution_timeout"] = timedelta(seconds=node.timeout_s)
    for name, value in node.airflow.items():
        options[_SECONDS.get(name, name)] = timedelta(seconds=value) if name in _SECONDS else value
    return options


def _doc(node: Node) -> str:
    outputs = "".join(f"\n- `{key}`: {kind}" for key, kind in node.outputs.items())
    return node.doc + (f"\n\nOutputs:\n{outputs}" if outputs else "")
