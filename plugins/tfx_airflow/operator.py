"""One task: has one node run by the launcher and turns its outcome into a task state that is true."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from airflow.sdk import NEVER_EXPIRE, BaseOperator, Context  # type: ignore[attr-defined]  # not in its stubs
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airtight.audit.actor import USER
from airtight.errors import AirtightError
from airtight.home import Home
from plugins.tfx_airflow import params, run_start, run_tasks
from plugins.tfx_airflow.airflow_compat import (
    FINISHED,
    class_and_arguments,
    clear_number,
    max_tries,
    show_as,
    state_store,
    user_of,
)
from runtime import compiled_store
from runtime.client import Call
from runtime.compiled_pipeline import CompiledPipeline
from runtime.logs import LINE
from runtime.protocol import NodeRequest, Outcome, run_key

_COLORS = {"Resolver": "#e8eaf6", "Importer": "#e0f2f1"}
_COLOR = "#fff3e0"
EXECUTION = "execution"
"""Key of the XCom that holds the id of the task's execution in ML Metadata; consumers of its outputs read it."""
_ATTEMPTS = "airtight_attempts"


class TfxNodeOperator(BaseOperator):
    """Runs one node of a compiled pipeline.

    Args:
      pipeline: What was compiled, as `TfxDag` takes it.
      compiled: The compiled pipeline that the DAG shows, `<name>/<digest>`; "" for the current one.
      node: The node's id.
      node_type: Its component's name, shown in the graph.
      prefix: Put before the names of the pipeline's parameters in the DAG's params.
      group: Names the task group, where a DAG holds one pipeline twice.
      overrides: Values of the pipeline's parameters that other tasks know, as templates; they win over the form's.
      labels: What lineage and audit log keep of an attempt beside whose it is, by name, as templates; nothing of an
        empty one.
      cold: Run it in a process of its own, though the warm launcher is there.
      interpreter: Run it in a process of this Python, a path.
      image: Run it in a container of this image.
      needs: For each thing that the node cannot do without, ids of the tasks of which one at least must not have been
        skipped; looked at where the trigger rule lets the task run after skipped ones.
      **kwargs: As for every operator.
    """

    template_fields = ("pipeline", "compiled", "node", "parameters", "overrides", "labels", "interval")

    def __init__(
        self,
        *,
        pipeline: str,
        node: str,
        compiled: str = "",
        node_type: str = "",
        parameter_names: Iterable[str] = (),
        prefix: str = "",
        group: str = "",
        overrides: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        cold: bool = False,
        interpreter: str = "",
        image: str = "",
        needs: Iterable[Iterable[str]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.node = node
        self.compiled = compiled
        self.prefix = prefix
        self.group = group
        self.overrides = dict(overrides or {})
        self.labels = dict(labels or {})
        self.cold = cold
        self.interpreter = interpreter
        self.image = image
        self.needs = [list(tasks) for tasks in needs]
        # Shown under "Rendered Templates"; the run itself takes the typed values.
        self.parameters = {name: f"{{{{ params['{prefix}{name}'] }}}}" for name in parameter_names}
        self.interval = (
            "{{ params.get('interval') or "
            "(data_interval_start | default('') | string ~ '/' ~ data_interval_end | default('') | string) }}"
        )
        show_as(self, node_type or "TFX node")
        self.ui_color = _COLORS.get(node_type, _COLOR)
        self._call: Call | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Runs the node, logs its lines, and tells where its outputs lie.

        Returns:
          State, execution id and outputs, for XCom.

        Raises:
          AirflowSkipException: The node had nothing to do.
          AirflowFailException: A fault that no retry heals.
          AirflowException: A fault that Airflow's retries may heal.
        """
        home = Home.current()
        try:
            outcome = self._run(self._request(context, home), home)
            outcome.raise_if_failed()
        except AirtightError as error:
            error.step = error.step or self.task_id
            raise (AirflowException if error.transient else AirflowFailException)(str(error)) from error
        if outcome.state == "skipped":
            raise AirflowSkipException(outcome.summary)
        context["ti"].xcom_push(key=EXECUTION, value=outcome.execution)
        return {"state": outcome.state, "execution": outcome.execution, "outputs": outcome.outputs}

    def on_kill(self) -> None:
        """Asks the node to end; it cleans up, and its processes are gone within seconds."""
        if self._call is not None:
            self._call.stop()

    def _request(self, context: Context, home: Home) -> NodeRequest:
        run = context["dag_run"]
        task = context["ti"]
        shown = self.compiled or compiled_store.name_of(compiled_store.current(self.pipeline, home), home)
        path, compiled, run_params = run_start.of_run(context, self, shown, home)
        producers = dict(self._producers(compiled))
        states = run_tasks.states(context, {*producers, *(name for names in self.needs for name in names)})
        if missing := run_tasks.missing(self.needs, states):
            raise AirflowSkipException(f"{self.node} was skipped, because {', '.join(missing)} was.")
        if path != compiled_store.path_of_name(shown, home):
            run_start.await_upstream(self, producers, states)
        inputs, pending = self._inputs(task, producers, states)
        interval = (run.data_interval_start, run.data_interval_end)
        given = {**run_params, **{self.prefix + name: value for name, value in self.overrides.items()}}
        return NodeRequest(
            compiled=str(path),
            node=self.node,
            run=self._run_key(run, run_tasks.map_index(task)),
            # Airflow gives every try of a task an id of its own, after a retry and after a Clear.
            attempt=str(task.id),
            home=str(home.path),
            parameters=params.values(compiled, given, interval, self.prefix),
            use_cache=params.use_cache(compiled, run_params),
            labels={
                "dag_id": run.dag_id,
                "run_id": run.run_id,
                "try_number": task.try_number,
                "clear_number": clear_number(run),
                **{name: value for name, value in self.labels.items() if value},
                **({USER: user} if (user := user_of(run)) else {}),
            },
            inputs=inputs,
            pending=pending,
            **self._attempts(context),
        )

    def _run_key(self, run: Any, index: int) -> str:
        """Names the run of this pipeline in the lineage.

        In a DAG several operators that stand alone may run nodes of several pipelines without groups around them.
        """
        alone = () if self.compiled else (self.pipeline,)
        return run_key(run.dag_id, self.group, "" if index < 0 else str(index), run.run_id, *alone)

    def _attempts(self, context: Context) -> dict[str, Any]:
        """Notes this attempt where Airflow keeps a task's state, and reads those before it.

        The note goes with the DAG run, so a run that is created again under the same id knows of none. A retry by
        Airflow itself leaves alone what a Clear changes: a Clear raises the task's `max_tries`, and in a run that it
        resets `clear_number`, too, and `start_date` when the run had ended. So a Clear of another task of the run ends
        the series as well: a success that was not reported is then made once more, which is the safer direction. A
        Clear of a task that runs leaves `max_tries`, and without resetting the run it is as a retry to us (adr/0017).

        Returns:
          The fields of the request that name earlier attempts.
        """
        run, task, store = context["dag_run"], context["ti"], state_store(context)
        started = run.start_date.isoformat() if run.start_date else ""
        series = [started, clear_number(run), max_tries(task), self.retries]
        before = store.get(_ATTEMPTS) or {"earlier": [], "series": series, "unreported": []}
        unreported = before["unreported"] if before["series"] == series else []
        present = {"earlier": _with(before["earlier"], task), "series": series, "unreported": _with(unreported, task)}
        store.set(_ATTEMPTS, present, retention=NEVER_EXPIRE)
        return {
            "earlier": tuple(before["earlier"]),
            "unreported": tuple(unreported),
            # An Airflow that empties the store on success has left nothing of a task that was cleared since. Where the
            # DAG has fewer retries than when the run was created, max_tries is higher without a Clear.
            "again": not before["earlier"] and max_tries(task) > self.retries and task.try_number > 1,
        }

    def _inputs(
        self, task: Any, producers: Mapping[str, str], states: run_tasks.States
    ) -> tuple[dict[str, int], tuple[str, ...]]:
        """Asks Airflow which executions made the outputs of the nodes upstream.

        A mapped task takes what its own index has made, and of a task that is not mapped what that made.

        Args:
          task: The task instance.
          producers: The tasks that run these nodes, and the nodes.
          states: Their states.

        Returns:
          The execution of each node that has one in this run, and the nodes that run or are about to.
        """
        executions: dict[str, int] = {}
        pending: list[str] = []
        for task_id, (index, state) in states.items():
            if task_id not in producers:
                continue
            if state == "success":
                execution = task.xcom_pull(task_ids=task_id, key=EXECUTION, map_indexes=index)
                if execution is not None:
                    # Where several tasks of a DAG run one node, the latest counts.
                    executions[producers[task_id]] = max(int(execution), executions.get(producers[task_id], 0))
            elif state not in FINISHED:
                pending.append(producers[task_id])
        return executions, tuple(pending)

    def _producers(self, compiled: CompiledPipeline) -> Iterator[tuple[str, str]]:
        """The tasks that run the nodes of the same pipeline which this one needs, and these nodes.

        A resolver looks further back: what nodes before it have made anew takes the place of what they made before.
        They come before this task, unless the DAG changed since the run began: then they may stand anywhere in it.
        """
        node = compiled.node(self.node)
        needed = compiled.before(node.id) if node.type == "Resolver" else set(node.upstream)
        before = list(self._nodes_of(self.get_flat_relatives(upstream=True), needed))
        yield from before
        others = self.dag.tasks if self.has_dag() else ()
        yield from self._nodes_of(others, needed - {node for _, node in before})

    def _nodes_of(self, tasks: Iterable[Any], nodes: set[str]) -> Iterator[tuple[str, str]]:
        """The tasks among these that run nodes of this task's pipeline and group, and the nodes.

        Where it stands alone, only those that stand alone, too: a DAG's own have another run key.
        """
        for task in tasks:
            class_, arguments = class_and_arguments(task)
            if not issubclass(class_, TfxNodeOperator):
                continue
            same = (arguments.get("pipeline"), arguments.get("group") or "") == (self.pipeline, self.group)
            same = same and bool(arguments.get("compiled")) == bool(self.compiled)
            if same and arguments.get("node") in nodes:
                yield task.task_id, arguments["node"]

    def _run(self, request: NodeRequest, home: Home) -> Outcome:
        launcher = None if self.cold else home.launcher_socket
        self._call = Call(request, launcher, interpreter=self.interpreter, image=self.image)
        with self._call:
            self.log.info("%s runs in %s.", self.node, self._call.where)
            _log_lines(self._call.lines())
            return self._call.outcome


def _with(attempts: list[str], task: Any) -> list[str]:
    return [*dict.fromkeys([*attempts, str(task.id)])]


def _log_lines(lines: Iterable[str]) -> None:
    """Logs each line at the level and under the name that it came with."""
    level, logger = logging.INFO, logging.getLogger("node")
    for line in lines:
        start = LINE.match(line)
        if start:
            level, logger = logging.getLevelNamesMapping()[start[1]], logging.getLogger(start[2])
        logger.log(level, "%s", start[3] if start else line)
