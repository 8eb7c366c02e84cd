"""Runs of one DAG side by side, their gates in the order of their intervals.

A run's gates compare with what the run before has pushed, so they wait for it; what comes before them does not.
Airflow's own `depends_on_past` knows only the same task of the run before, says nothing where that failed, and refuses
two of the three ways to backfill.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, AirflowSkipException

from airtight.errors import AirtightError, TerminalError
from airtight.home import Home
from airtight.interval import Interval
from plugins.tfx_airflow import run_tasks
from plugins.tfx_airflow.airflow_compat import (
    SCHEDULED,
    dag_is_paused,
    dag_run_state,
    has_schedule,
    previous_dag_run,
    task_states,
)
from plugins.tfx_airflow.params import GO_ON, INTERVAL, STOP, WHEN_PREVIOUS_FAILED, interval_of
from plugins.tfx_airflow.polling import PollingTrigger

DONE = ("success", "skipped")
FAILED = ("failed", "upstream_failed", "removed")
OVER = ("success", "failed")
"""States of a run of which nothing more will become."""
QUEUED_S = 120.0
"""An earlier run that stays in the queue for these seconds is waiting for this one to end."""


class AwaitPrevious(BaseOperator):
    """Waits until a task of the run of the interval before has ended; no worker is held meanwhile.

    The run before is the one whose interval ends last among the scheduled and backfilled runs of this DAG that end by
    this run's start; where its task was skipped and its own gate never went on, the one before that counts. Runs that a
    person, another DAG or an asset triggered, and runs with an interval on the form, wait for it too, but no run waits
    for them: whoever triggers them decides about their order (adr/0021).

    Args:
      until: The task's id.
      zone: IANA time zone in which bare dates of the form are meant.
      pipeline: The pipeline's name. Another DAG with gates for the same pipeline is warned of; "" checks nothing.
      needs: As for `TfxNodeOperator`: what all tasks behind the gate need. Where it was skipped there is nothing to
        wait for, and the gate is skipped, too.
      **kwargs: As for every operator.
    """

    template_fields = ()
    ui_color = "#ede7f6"

    def __init__(
        self, *, until: str, zone: str, pipeline: str = "", needs: Iterable[Iterable[str]] = (), **kwargs: Any
    ) -> None:
        kwargs.setdefault("doc_md", f"Waits until `{until}` of the run of the interval before has ended.")
        super().__init__(**kwargs)
        self.until = until
        self.zone = zone
        self.pipeline = pipeline
        self.needs = [list(tasks) for tasks in needs]

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Goes on at once, later, or never.

        Returns:
          The run that was waited for ("" for none) and the state of its task, for XCom.

        Raises:
          AirflowSkipException: What all tasks behind the gate need was skipped.
          TaskDeferred: The task has not ended yet.
          AirflowFailException: It failed, or its run waits for this one.
        """
        states = run_tasks.states(context, {name for names in self.needs for name in names})
        if missing := run_tasks.missing(self.needs, states):
            raise AirflowSkipException(f"Nothing waits for {self.until}, because {', '.join(missing)} was skipped.")
        try:
            if event is None:
                self._warn_of_other_dags(context["dag_run"].dag_id)
            return self._decide(context, (event or {}).get("stuck", False))
        except AirtightError as error:
            error.step = error.step or self.task_id
            raise AirflowFailException(str(error)) from error

    def _decide(self, context: Context, stuck: bool) -> dict[str, Any]:
        run = context["dag_run"]
        own = (run.data_interval_start, run.data_interval_end)
        interval = interval_of(self.zone, context["params"].get(INTERVAL), own)
        before, state, is_queued = self._run_to_wait_for(context, interval)
        if before is None:
            self.log.info("There is no run of an interval before %s: nothing to wait for.", interval)
            return {"run": "", "state": ""}
        name = _name_of(before)
        if state in DONE:
            self.log.info("%s of %s ended: %s.", self.until, name, state)
        elif state in FAILED:
            if context["params"].get(WHEN_PREVIOUS_FAILED, STOP) != GO_ON:
                raise self._refusal(name, state)
            self.log.warning(
                "%s of %s did not succeed (%s); this run goes on, because %s is set to %s.",
                *(self.until, name, state, WHEN_PREVIOUS_FAILED, GO_ON),
            )
        elif stuck and is_queued:
            raise TerminalError(
                f"{name} does not start, so {self.until} of it cannot be waited for.",
                expected="runs that start in the order of their intervals",
                received=f"a run that has been in the queue for {QUEUED_S:.0f} s while this one runs",
                remedy="Let it run (a higher max_active_runs, not backwards, the DAG unpaused), then clear this task.",
            )
        else:
            self.log.info("Waiting for %s of %s.", self.until, name)
            index = run_tasks.map_index(context["ti"])
            awaited = TaskEnded(dag_id=run.dag_id, run_id=before.run_id, awaited=self.until, index=index)
            self.defer(trigger=awaited, method_name="execute")
        return {"run": before.run_id, "state": state}

    def _run_to_wait_for(self, context: Context, interval: Interval) -> tuple[Any | None, str, bool]:
        """Finds the latest run before whose task was not skipped, or was skipped after its gate went on.

        A task that is skipped together with its gate, or because somebody marks its run as success, says nothing of the
        runs before it. The gate's XCom does; its state does not, for Airflow marks a gate that waits as success, too.

        Returns:
          The run or None, and its progress.
        """
        dag_id, task = context["dag_run"].dag_id, context["ti"]
        index = run_tasks.map_index(task)
        start, end = interval.start, interval.end
        while has_schedule(self.dag) and (before := _run_before(dag_id, start, end)) is not None:
            name = _name_of(before)
            if before.data_interval_end < start:
                self.log.warning(
                    "No scheduled run covers %s to %s; the run before is %s.",
                    *(before.data_interval_end.isoformat(), start.isoformat(), name),
                )
            state, is_queued = _progress(dag_id, before.run_id, self.until, index)
            if state != "skipped" or task.xcom_pull(self.task_id, run_id=before.run_id, map_indexes=index):
                return before, state, is_queued
            self.log.info("%s of %s was skipped, and did not wait for the run before that.", self.until, name)
            start, end = before.data_interval_start, before.data_interval_end
        return None, "", False

    def _warn_of_other_dags(self, dag_id: str) -> None:
        """Warns of other DAGs that judge against the champion of the same pipeline.

        DAG files are parsed apart from each other, so each gate leaves its DAG's id in the state folder.
        """
        try:
            others = self._other_dags(dag_id) if self.pipeline else []
        except (OSError, AirflowRuntimeError) as error:
            self.log.warning("It is not known whether another DAG runs the pipeline %s too: %s", self.pipeline, error)
            return
        if others:
            self.log.warning(
                "%s runs the pipeline %s too. Gates wait for runs of their own DAG alone, so runs of the two DAGs are "
                "judged against whichever champion is the latest at that moment. Pause one DAG, or give its pipeline "
                "a pipeline_name of its own.",
                *(", ".join(others), self.pipeline),
            )

    def _other_dags(self, dag_id: str) -> list[str]:
        """Returns the other DAGs of the pipeline that are not paused, and removes the ids of those that are gone."""
        folder = Home.current().gates(self.pipeline)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / dag_id).touch()
        others = []
        for file in sorted(folder.iterdir()):
            if file.name == dag_id:
                continue
            is_paused = dag_is_paused(file.name)
            if is_paused is None:
                file.unlink(missing_ok=True)
            elif not is_paused:
                others.append(file.name)
        return others

    def _refusal(self, name: str, state: str) -> TerminalError:
        return TerminalError(
            f"{self.until} of the run before, {name}, did not succeed, so its champion is not known.",
            expected=" or ".join(DONE),
            received=state,
            remedy=f"Repair that run, and clear this task with all that is downstream, in future runs too. To go on "
            f"without it, mark its task {self.until} as success first (nothing is pushed by that), or set "
            f"{WHEN_PREVIOUS_FAILED} to {GO_ON} where the runs are triggered.",
        )


class TaskEnded(PollingTrigger):
    """Fires when a task of another run of the DAG has ended, or when that run does not leave the queue.

    Args:
      dag_id: The DAG.
      run_id: The run.
      awaited: The task's id.
      index: Its map index; -1 for a task that is not mapped.
    """

    def __init__(self, *, dag_id: str, run_id: str, awaited: str, index: int = -1) -> None:
        super().__init__(dag_id=dag_id, run_id=run_id, awaited=awaited, index=index)
        self._left_queue = time.monotonic()

    def poll(self) -> dict[str, Any] | None:
        """Returns whether the run is stuck in the queue, or None while it is not known yet."""
        state, is_queued = _progress(*(self.arguments[name] for name in ("dag_id", "run_id", "awaited", "index")))
        if state in DONE + FAILED:
            return {"stuck": False}
        if not is_queued:
            self._left_queue = time.monotonic()
        return {"stuck": True} if time.monotonic() - self._left_queue > QUEUED_S else None


def _name_of(run: Any) -> str:
    return f"{run.run_id} ({run.data_interval_start.isoformat()}/{run.data_interval_end.isoformat()})"


def _run_before(dag_id: str, start: datetime, end: datetime) -> Any | None:
    """Returns the scheduled run whose interval ends last of those that end by an interval's start, or None.

    Airflow gives runs in the order of their logical dates. That of a scheduled run is the start of its interval; that
    of a triggered run is any instant, as a rule the moment of the trigger, whatever its interval. So the search goes
    on behind a hit that leaves a gap, until what is left starts so early that it cannot end later than the hit.
    """
    longest = end.astimezone(UTC) - start.astimezone(UTC)
    latest = None
    date = start
    while (run := previous_dag_run(dag_id, date)) is not None:
        date = run.logical_date
        if latest is not None and date < latest.data_interval_start - longest:
            break
        if not _is_in_order(run):
            continue
        longest = max(longest, run.data_interval_end - run.data_interval_start)
        is_later = latest is None or run.data_interval_end > latest.data_interval_end
        if run.data_interval_end <= start and is_later:
            latest = run
            if run.data_interval_end == start:
                break
    return latest


def _is_in_order(run: Any) -> bool:
    """Returns whether a timetable made the run, and it keeps to the interval of the timetable."""
    return run.run_type in SCHEDULED and not (run.conf or {}).get(INTERVAL) and run.data_interval_end is not None


def _progress(dag_id: str, run_id: str, task_id: str, index: int) -> tuple[str, bool]:
    """Returns the state of a task, "" while it has none, and whether its run is still in the queue.

    A task that has no state when its run is over never ran: then its run's state counts. One that was to be mapped and
    never was has a state without an index.
    """
    for of_index in dict.fromkeys((index, -1)):
        if state := task_states(dag_id, run_id, [task_id], of_index).get(task_id):
            return state, False
    of_run = dag_run_state(dag_id, run_id)
    return (of_run if of_run in OVER else ""), of_run == "queued"
