"""The machine stands still for a minute, as with a disk that hangs or a laptop that sleeps, and no task notices."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airtight.home import Home
from benchmarks.own_services import own_services
from services import processes
from services.airflow_api import Airflow
from services.environment import STALL_S
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


Services = tuple[Home, Airflow]


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with pytest.MonkeyPatch.context() as patch:
        # They set it to a folder of their own.
        patch.setenv("AIRTIGHT_HOME", "")
        with own_services(DAGS) as (home, airflow):
            airflow.await_dag("words", timeout_s=120)
            yield home, airflow


@pytest.fixture
def waiting(services: Services, tmp_path: Path) -> Iterator[Callable[[], dict[str, tuple[str, int]]]]:
    """A run whose second node is at work until the function that this gives is called; it gives state and tries."""
    _, airflow = services
    started, go_on = tmp_path / "started", tmp_path / "go_on"
    run = airflow.trigger("words", {"interval": "2013-06", "trouble": f"wait:{started}:{go_on}"})
    until(started.exists, "the node is at work")

    def end() -> dict[str, tuple[str, int]]:
        go_on.touch()
        until(lambda: airflow.run_state("words", run) in ("success", "failed"), "the run ends")
        return {task.id: (task.state, task.tries) for task in airflow.tasks("words", run)}

    yield end
    go_on.touch()


FIRST_TRY = dict.fromkeys(("write", "copy", "count"), ("success", 1))


def test_a_task_outlives_a_minute_in_which_nothing_runs(services: Services, waiting: Callable) -> None:
    home, _ = services
    stand_still(home)
    assert waiting() == FIRST_TRY
    log = (home.logs / "scheduler.log").read_text(encoding="utf-8")
    assert "SchedulerJob instances as failed" not in log
    assert "without heartbeat" not in log


def test_a_task_outlives_the_api_that_it_speaks_to(services: Services, waiting: Callable) -> None:
    home, _ = services
    os.kill(_pid(home, "execution-api"), signal.SIGKILL)
    # The task ends while there is no API to tell.
    assert waiting() == FIRST_TRY


def stand_still(home: Home) -> None:
    """Stops every process of the services, and lets the scheduler look around before anyone else goes on."""
    scheduler = _pid(home, "scheduler")
    with processes.stopped(home):
        time.sleep(STALL_S)
        os.kill(scheduler, signal.SIGCONT)
        # The scheduler looks for tasks without a sign of life every ten seconds.
        time.sleep(15)


def _pid(home: Home, name: str) -> int:
    return next(program.pid for program in Supervisor(home).programs() if program.name == name)
