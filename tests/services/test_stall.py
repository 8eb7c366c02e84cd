"""The machine stands still for a minute, as with a disk that hangs or a laptop that sleeps, and no task notices."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from airtight.home import Home
from benchmarks.own_services import own_services
from services import processes
from services.settings import STALL_S
from services.supervisor import Supervisor
from tests.tiny_pipeline.running import TINY
from tests.waiting import until

pytestmark = pytest.mark.slow

DAGS = f"""
from datetime import timedelta
from plugins.tfx_airflow import TfxDag

words = TfxDag({TINY!r}, dag_id="words", schedule=None, is_paused_upon_creation=False,
               default_args={{"retries": 3, "retry_delay": timedelta(seconds=1)}})
"""


def test_a_task_outlives_a_minute_in_which_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path))
    note, go_on = tmp_path / "note", tmp_path / "go_on"
    with own_services(DAGS) as (home, airflow):
        airflow.await_dag("words", timeout_s=120)
        run = airflow.trigger("words", {"interval": "2013-06", "trouble": f"wait:{note}:{go_on}"})
        until(note.exists, "the node is at work")
        stand_still(home)
        go_on.touch()
        until(lambda: airflow.run_state("words", run) in ("success", "failed"), "the run ends")
        tasks = {task.id: (task.state, task.tries) for task in airflow.tasks("words", run)}
        assert tasks == {name: ("success", 1) for name in ("write", "copy", "count")}
        log = (home.logs / "scheduler.log").read_text(encoding="utf-8")
        assert "SchedulerJob instances as failed" not in log
        assert "without heartbeat" not in log


def stand_still(home: Home) -> None:
    """Stops every process of the services, and lets the scheduler look around before anyone else goes on."""
    scheduler = next(program.pid for program in Supervisor(home).programs() if program.name == "scheduler")
    stopped: set[int] = set()
    try:
        # Again, because one that is met late may have started another.
        while new := set(processes.alive(home)) - stopped:
            for pid in new:
                _send(pid, signal.SIGSTOP)
            stopped |= new
        time.sleep(STALL_S)
        _send(scheduler, signal.SIGCONT)
        # The scheduler looks for tasks without a sign of life every ten seconds.
        time.sleep(15)
    finally:
        for pid in stopped:
            _send(pid, signal.SIGCONT)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
