"""Renders a compiled TFX pipeline: one task for each node, its edges, its options, a typed trigger form."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from graphlib import TopologicalSorter
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, TaskGroup
from airflow.sdk.definitions._internal.contextmanager import DagContext

from airtight.errors import TerminalError
from airtight.home import Home
from plugins.tfx_airflow.operator import TfxNodeOperator
from plugins.tfx_airflow.params import form
from plugins.tfx_airflow.previous_run_gate import AwaitPrevious
from runtime.client import fresh
from runtime.compiled_pipeline import ENDED_ANYHOW, CompiledPipeline, Node

SUCCEEDED = "succeeded"
"""The task that fails a run of which a node failed, where what ends a resource ended well: Airflow asks the last tasks
alone how a run went."""
ALL_SUCCESS, NONE_FAILED = "all_success", "none_failed"
"""Trigger rules: the usual one, and that of a task which may run although tasks before it were skipped."""
_SECONDS = {"timeout_s": "execution_timeout", "retry_delay_s": "retry_delay"}


def TfxDag(pipeline: str, *, dag_id: str = "", params: dict[str, Any] | None = None, **kwargs: Any) -> DAG:
    """Gives an Airflow DAG for a TFX pipeline.

    Args:
      pipeline: A folder of `pipelines/`, `package.module:function` that returns a TFX pipeline, or an IR file.
      dag_id: The DAG's id; the pipeline's own by default.
      params: Further params, or others in place of the pipeline's.
      **kwargs: As for `airflow.sdk.DAG`.

    Raises:
      AirtightError: The pipeline does not compile; it names the pipeline and the cause.
    """
    compiled = fresh(pipeline, Home.current())
    kwargs.setdefault("doc_md", compiled.doc or None)
    with DAG(dag_id or compiled.pipeline, params=form(compiled) | (params or {}), **kwargs) as dag:
        _tasks(compiled, pipeline)
    return dag


def TfxTaskGroup(pipeline: str, *, group_id: str = "", prefix: str = "", **kwargs: Any) -> TaskGroup:
    """Gives a task group for a TFX pipeline, inside the DAG that is being defined.

    Args:
      pipeline: As for `TfxDag`.
      group_id: The group's id; the pipeline's own by default.
      prefix: Put before the names of the pipeline's parameters in the DAG's params.
      **kwargs: As for `airflow.sdk.TaskGroup`.

    Raises:
      TerminalError: There is no DAG around it.
      AirtightError: The pipeline does not compile.
    """
    dag = kwargs.get("dag") or DagContext.get_current()
    if dag is None:
        raise TerminalError(
            f"The task group of {pipeline} stands outside of a DAG.",
            expected="`with DAG(...):` around TfxTaskGroup",
            received="no current DAG",
            remedy="Move it into the DAG, or use TfxDag.",
        )
    compiled = fresh(pipeline, Home.current())
    for name, param in form(compiled, prefix).items():
        dag.params.setdefault(name, param)
    with TaskGroup(group_id or compiled.pipeline, **kwargs) as group:
        _tasks(compiled, pipeline, prefix=prefix, group=group.group_id or "")
    return group


def _tasks(compiled: CompiledPipeline, pipeline: str, prefix: str = "", group: str = "") -> None:
    tasks: dict[str, BaseOperator] = {}
    nodes, gates = _with_gates(compiled.nodes)
    skippable = _skippable(nodes)
    for node in compiled.nodes:
        tasks[node.id] = TfxNodeOperator(
            task_id=node.id,
            pipeline=pipeline,
            node=node.id,
            node_type=node.type,
            parameter_names=[parameter.name for parameter in compiled.parameters],
            prefix=prefix,
            group=group,
            **_options(nodes[node.id], skippable),
        )
    for gate, until in gates.items():
        tasks[gate] = AwaitPrevious(
            task_id=gate, until=tasks[until].task_id, zone=compiled.zone, trigger_rule=_rule(nodes[gate], skippable)
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
    found = {node.id: node for node in nodes}
    gates = {}
    for until in dict.fromkeys(node.after_previous for node in nodes if node.after_previous):
        gate = f"await_previous_{until}"
        waiting = [node for node in nodes if node.after_previous == until]
        inside = {node.id for node in waiting}
        needed = dict.fromkeys(up for node in waiting for up in node.upstream if up not in inside)
        found[gate] = Node(gate, AwaitPrevious.__name__, tuple(needed))
        for node in waiting:
            found[node.id] = replace(node, upstream=(gate, *node.upstream))
        gates[gate] = until
    return found, gates


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
