from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airtight.home import Home
from services import processes
from services.environment import MARK
from tests.waiting import until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def start(home: Home) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run(code: str, mark: Path = home.path) -> subprocess.Popen[str]:
        """A Python process in a session of its own, as Airflow's tasks are, that has said it is ready."""
        process = subprocess.Popen(
            [sys.executable, "-c", f"import os, signal, sys, time\n{code}\nprint(1, flush=True)\ntime.sleep(60)"],
            env={**os.environ, MARK: str(mark)},
            start_new_session=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def test_what_left_its_group_is_found_and_ended(home: Home, start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("")
    assert processes.alive(home) == [process.pid]
    assert "time.sleep" in processes.name(process.pid)
    assert processes.end_all(home) == 1
    assert process.wait(5) == -15
    assert processes.alive(home) == []


def test_what_does_not_go_is_killed(
    home: Home, start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "TERMINATE_S", 0.2)
    process = start("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert processes.end_all(home) == 1
    assert process.wait(5) == -9


def test_an_orphan_is_found(home: Home, start: Callable[..., subprocess.Popen[str]]) -> None:
    parent = start("if os.fork() == 0: os.setsid(); time.sleep(60)")
    parent.kill()
    parent.wait()
    assert len(processes.alive(home)) == 1
    assert processes.end_all(home) == 1


def test_everything_stands_still_for_a_while(
    home: Home, tmp_path_factory: pytest.TempPathFactory, start: Callable[..., subprocess.Popen[str]]
) -> None:
    ours = [start("").pid, start("").pid]
    stranger = start("", tmp_path_factory.mktemp("other")).pid

    def states() -> list[str]:
        return [process_state(pid) for pid in (*ours, stranger)]

    with pytest.raises(KeyboardInterrupt), processes.stopped(home):
        until(lambda: states() == ["T", "T", "S"], "all of ours are stopped")
        raise KeyboardInterrupt
    until(lambda: states() == ["S", "S", "S"], "they go on")


def process_state(pid: int) -> str:
    """The state's letter, as in `ps`."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_others_are_left_alone(
    home: Home, tmp_path_factory: pytest.TempPathFactory, start: Callable[..., subprocess.Popen[str]]
) -> None:
    stranger = start("", tmp_path_factory.mktemp("other"))
    longer = start("", Path(f"{home.path}-2"))
    assert processes.end_all(home) == 0
    time.sleep(0.1)
    assert stranger.poll() is None
    assert longer.poll() is None
