"""One task: has one node run by the launcher and turns its outcome into a task state that is true."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airtight.errors import AirtightError
from airtight.home import Home
from plugins.tfx_airflow import params
from runtime.client import Call
from runtime.compiled_pipeline import CompiledPipeline, path_of
from runtime.logs import LINE
from runtime.protocol import NodeRequest, Outcome, run_key

_COLORS = {"Resolver": "#e8eaf6", "Importer": "#e0f2f1"}
_COLOR = "#fff3e0"


class TfxNodeOperator(BaseOperator):
    """Runs one node of a compiled pipeline.

    Args:
      pipeline: What was compiled, as `TfxDag` takes it.
      node: The node's id.
      node_type: Its component's name, shown in the graph.
      prefix: Put before the names of the pipeline's parameters in the DAG's params.
      group: Names the task group, where a DAG holds one pipeline twice.
      overrides: Values of the pipeline's parameters that other tasks know, as templates; they win over the form's.
      cold: Run it in a process of its own, though the warm launcher is there.
      interpreter: Run it in a process of this Python, a path.
      image: Run it in a container of this image.
      needs: For each thing that the node cannot do without, ids of the tasks of which one at least must not have been
        skipped; looked at where the trigger rule lets the task run after skipped ones.
      **kwargs: As for every operator.
    """

    template_fields = ("pipeline", "node", "parameters", "overrides", "interval")

    def __init__(
        self,
        *,
        pipeline: str,
        node: str,
        node_type: str = "",
        parameter_names: Iterable[str] = (),
        prefix: str = "",
        group: str = "",
        overrides: Mapping[str, str] | None = None,
        cold: bool = False,
        interpreter: str = "",
        image: str = "",
        needs: Iterable[Iterable[str]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.node = node
        self.prefix = prefix
        self.group = group
        self.overrides = dict(overrides or {})
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
        self.custom_operator_name = node_type or "TFX node"
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
        if missing := self._missing(context):
            raise AirflowSkipException(f"{self.node} was skipped, because {', '.join(missing)} was.")
        home = Home.current()
        try:
            outcome = self._run(self._request(context, home), home)
            outcome.raise_if_failed()
        except AirtightError as error:
            error.step = error.step or self.task_id
            raise (AirflowException if error.transient else AirflowFailException)(str(error)) from error
        if outcome.state == "skipped":
            raise AirflowSkipException(outcome.summary)
        return {"state": outcome.state, "execution": outcome.execution, "outputs": outcome.outputs}

    def on_kill(self) -> None:
        """Asks the node to end; it cleans up, and its processes are gone within seconds."""
        if self._call is not None:
            self._call.stop()

    def _missing(self, context: Context) -> list[str]:
        """Ids of the tasks that were skipped and without which the node has nothing to do."""
        if not self.needs:
            return []
        run, task = context["dag_run"], context["ti"]
        wanted = sorted({name for tasks in self.needs for name in tasks})
        states = task.get_task_states(dag_id=run.dag_id, task_ids=wanted, run_ids=[run.run_id]).get(run.run_id, {})
        # In a mapped task group each task has its state under its map index.
        skipped = {name for name in wanted if states.get(name, states.get(f"{name}_{task.map_index}")) == "skipped"}
        return sorted({name for tasks in self.needs if skipped.issuperset(tasks) for name in tasks})

    def _request(self, context: Context, home: Home) -> NodeRequest:
        path = path_of(self.pipeline, home)
        compiled = CompiledPipeline.read(path)
        run = context["dag_run"]
        task = context["ti"]
        interval = (run.data_interval_start, run.data_interval_end)
        given = {**context["params"], **{self.prefix + name: value for name, value in self.overrides.items()}}
        return NodeRequest(
            compiled=str(path),
            node=self.node,
            run=run_key(run.dag_id, *filter(None, [self.group]), run.run_id),
            # Airflow gives every try of a task an id of its own, after a retry and after a Clear.
            attempt=str(task.id),
            home=str(home.path),
            parameters=params.values(compiled, given, interval, self.prefix),
            use_cache=params.use_cache(compiled, context["params"]),
            labels={
                "dag_id": run.dag_id,
                "run_id": run.run_id,
                "try_number": task.try_number,
                "clear_number": run.clear_number or 0,
            },
        )

    def _run(self, request: NodeRequest, home: Home) -> Outcome:
        launcher = None if self.cold else home.launcher_socket
        with Call(request, launcher, interpreter=self.interpreter, image=self.image) as self._call:
            self.log.info("%s runs in %s.", self.node, self._call.where)
            _log_lines(self._call.lines())
            return self._call.outcome


def _log_lines(lines: Iterable[str]) -> None:
    """Logs each line at the level and under the name that it came with."""
    level, logger = logging.INFO, logging.getLogger("node")
    for line in lines:
        start = LINE.match(line)
        if start:
            level, logger = logging.getLevelNamesMapping()[start[1]], logging.getLogger(start[2])
        logger.log(level, "%s", start[3] if start else line)
