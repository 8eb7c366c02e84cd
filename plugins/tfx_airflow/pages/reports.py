"""The report that a task's node has written: the page in the folder of one of its outputs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from plugins.tfx_airflow.pages.rendering import render
from plugins.tfx_airflow.pages.visible import Visible
from runtime.compiled_pipeline import safe_id
from runtime.protocol import run_key

if TYPE_CHECKING:
    from runtime.lineage.artifacts import Artifact
    from runtime.lineage.runs import Run, Step

_REPORT = "report.html"
_NOT_RUN = (
    "This task has run no node of a pipeline yet. Airflow shows this tab on every task; there is something to see on "
    "those that run a node which writes a report, such as validate, evaluate, monitor and judge."
)
_NO_REPORT = "This try is {state}, and its node has written no report."
_REMOVED = "Its report was in {folder}, and was removed since."


def file_of(artifacts: Iterable[Artifact]) -> Path | None:
    """The first report among artifacts' files; None where there is none."""
    return next((file for artifact in artifacts if (file := Path(artifact.uri) / _REPORT).is_file()), None)


def page(visible: Visible, dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """The report of a task's latest try as it lies there, or why there is none, or a gate's verdict as a table.

    Args:
      visible: What the reader may see of the metadata store.
      dag_id: The DAG.
      run_id: Airflow's id of the run.
      task_id: The task.
      map_index: Its map index; -1 where it is not mapped.
    """
    from plugins.tfx_airflow.pages.run_page import gate_of
    from runtime.lineage.runs import of_dag_run

    title = f"{task_id} of {run_id}"
    step = _step(of_dag_run(visible.store, dag_id, run_id), dag_id, run_id, task_id, map_index)
    if step is None or step.is_resolver:
        return render("words.html", title=f"{title} has no report", texts=[_NOT_RUN], link=None)
    made = [artifact for several in step.outputs.values() for artifact in several]
    if file := file_of(made):
        return file.read_text(encoding="utf-8")
    if gate := gate_of(step):
        return render("verdict.html", title=title, gate=gate)
    texts = [_NO_REPORT.format(state=step.state)]
    texts += [_REMOVED.format(folder=artifact.uri) for artifact in made if not Path(artifact.uri).exists()]
    return render("words.html", title=f"{title} has no report", texts=texts, link=None)


def _step(runs: list[Run], dag_id: str, run_id: str, task_id: str, map_index: int) -> Step | None:
    """The step that a task ran: of several runs of its DAG run that of its group and map index, or the latest."""
    group, _, name = task_id.rpartition(".")
    index = "" if map_index < 0 else str(map_index)
    steps = [
        (run.key == run_key(dag_id, group, index, run_id), step.execution, step)
        for run in runs
        for step in run.steps.values()
        if safe_id(step.node) in (name, task_id)
    ]
    return max(steps, key=lambda entry: entry[:2])[2] if steps else None
