"""Runs of one DAG side by side, their gates in the order of their intervals.

A run's gates compare with what the run before has pushed, so they wait for it; what comes before them does not.
Airflow's own `depends_on_past` knows only the same task of the run before, says nothing where that failed, and refuses
two of the three ways to backfill.
"""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from airtight.errors import AirtightError, TerminalError
from airtight.interval import Interval
from plugins.tfx_airflow.params import GO_ON, INTERVAL, STOP, WHEN_PREVIOUS_FAILED, interval_of
from plugins.tfx_airflow.polling import Looking

DONE = ("success", "skipped")
FAILED = ("failed", "upstream_failed", "removed")
OVER = ("success", "failed")
"""States of a run of which nothing more will become."""
QUEUED_S = 120.0
"""A run before that has not left the queue for so long is waiting for this one to end."""


class AwaitPrevious(BaseOperator):
    """Waits until a task of the run of the interval before has ended; no worker is held meanwhile.

    The run before is the one whose interval ends last of those that end by this run's start. Runs that were given their
    interval on the form are waited by, and not waited for: their order is the person's.

    Args:
      until: The task's id.
      zone: IANA time zone in which bare dates of the form are meant.
      **kwargs: As for every operator.
    """

    template_fields = ()
    ui_color = "#ede7f6"

    def __init__(self, *, until: str, zone: str, **kwargs: Any) -> None:
        kwargs.setdefault("doc_md", f"Waits until `{until}` of the run of the interval before has ended.")
        super().__init__(**kwargs)
        self.until = until
        self.zone = zone

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Goes on at once, later, or never.

        Returns:
          The run that was waited for ("" for none) and the state of its task, for XCom.

        Raises:
          TaskDeferred: The task has not ended yet.
          AirflowFailException: It failed, or its run waits for this one.
        """
        try:
            return self._decide(context, (event or {}).get("stuck", False))
        except AirtightError as error:
            error.step = error.step or self.task_id
            raise AirflowFailException(str(error)) from error

    def _decide(self, context: Context, stuck: bool) -> dict[str, Any]:
        run = context["dag_run"]
        own = (run.data_interval_start, run.data_interval_end)
        interval = interval_of(self.zone, context["params"].get(INTERVAL), own)
        before = _run_before(run.dag_id, interval)
        if before is None:
            self.log.info("There is no run of an interval before %s: nothing to wait for.", interval)
            return {"run": "", "state": ""}
        told = f"{before.run_id} ({before.data_interval_start.isoformat()}/{before.data_interval_end.isoformat()})"
        if before.data_interval_end < interval.start:
            self.log.warning(
                "No run covers %s to %s; the run before is %s.",
                *(before.data_interval_end.isoformat(), interval.start.isoformat(), told),
            )
        state = _state(run.dag_id, before.run_id, self.until)
        if state in DONE:
            self.log.info("%s of %s ended: %s.", self.until, told, state)
        elif state in FAILED:
            if context["params"].get(WHEN_PREVIOUS_FAILED, STOP) != GO_ON:
                raise self._refusal(told, state)
            self.log.warning("%s of %s did not succeed (%s); this run was told to go on.", self.until, told, state)
        elif stuck:
            raise TerminalError(
                f"{told} does not start, so {self.until} of it cannot be waited for.",
                expected="runs that start in the order of their intervals",
                received=f"a run that has been in the queue for {QUEUED_S:.0f} s while this one runs",
                remedy="Let it run (a higher max_active_runs, not backwards, the DAG unpaused), then clear this task.",
            )
        else:
            self.log.info("Waiting for %s of %s.", self.until, told)
            awaited = TaskEnded(dag_id=run.dag_id, run_id=before.run_id, awaited=self.until)
            self.defer(trigger=awaited, method_name="execute")
        return {"run": before.run_id, "state": state}

    def _refusal(self, told: str, state: str) -> TerminalError:
        return TerminalError(
            f"{self.until} of the run before, {told}, did not succeed, so its champion is not known.",
            expected=" or ".join(DONE),
            received=state,
            remedy=f"Repair that run, and clear this task with all that is downstream, in future runs too. To go on "
            f"without it, mark its task {self.until} as success first (nothing is pushed by that), or set "
            f"{WHEN_PREVIOUS_FAILED} to {GO_ON} where the runs are triggered.",
        )


class TaskEnded(Looking):
    """Fires when a task of another run of the DAG has ended, or when that run does not leave the queue.

    Args:
      dag_id: The DAG.
      run_id: The run.
      awaited: The task's id.
    """

    def __init__(self, *, dag_id: str, run_id: str, awaited: str) -> None:
        super().__init__(dag_id=dag_id, run_id=run_id, awaited=awaited)
        self._left_queue = time.monotonic()

    def look(self) -> dict[str, Any] | None:
        """Whether the run is stuck in the queue; None while there is nothing to tell."""
        state, is_queued = _progress(self.told["dag_id"], self.told["run_id"], self.told["awaited"])
        if state in DONE + FAILED:
            return {"stuck": False}
        if not is_queued:
            self._left_queue = time.monotonic()
        return {"stuck": True} if time.monotonic() - self._left_queue > QUEUED_S else None


def _run_before(dag_id: str, interval: Interval) -> Any | None:
    """The latest run, by its interval, of those that end by this one's start."""
    from airflow.sdk.execution_time.comms import GetPreviousDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    date = interval.start
    while True:
        found = SUPERVISOR_COMMS.send(GetPreviousDagRun(dag_id=dag_id, logical_date=date)).dag_run
        if found is None or _is_before(found, interval):
            return found
        date = found.logical_date


def _is_before(run: Any, interval: Interval) -> bool:
    is_scheduled = not (run.conf or {}).get(INTERVAL)
    return is_scheduled and run.data_interval_end is not None and run.data_interval_end <= interval.start


def _state(dag_id: str, run_id: str, task_id: str) -> str:
    return _progress(dag_id, run_id, task_id)[0]


def _progress(dag_id: str, run_id: str, task_id: str) -> tuple[str, bool]:
    """The state of a task, "" while it has none, and whether its run is still in the queue.

    A task that has no state when its run is over never ran: then its run's state counts.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(dag_id=dag_id, task_ids=[task_id], run_ids=[run_id])
    state = (states.get(run_id) or {}).get(task_id)
    if state:
        return str(state), False
    of_run = str(RuntimeTaskInstance.get_dagrun_state(dag_id=dag_id, run_id=run_id))
    return (of_run if of_run in OVER else ""), of_run == "queued"
