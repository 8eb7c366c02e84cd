"""What `benchmarks.kills` does to the services and to the runs while they run, drawn from a seed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from airtight.home import Home
from services import processes
from services.supervisor import Supervisor

WEIGHTS = {"node": 12, "task": 8, "recreate": 4, "launcher": 1, "scheduler": 1, "machine": 1}
"""How often each kind strikes. The launcher and the scheduler take 10 to 20 s to come back, and the machine stands
still as long as it is stopped."""
LONGEST_STOP_S = 70.0
_SHORTEST_STOP_S = 5.0
_AIM_S = 5.0


class Killer:
    """Strikes at one thing at a time: kills a process, stops the machine for a while, or has a run created again.

    Args:
      home: The services' state folder.
      seed: Decides what is struck, and when.
      most: Strikes at most.
      kinds: What may be struck, of `WEIGHTS`.
      longest_stop_s: For how long the machine stands still at most.
      recreate: Has one run deleted and created again; gets the random numbers.
    """

    def __init__(
        self,
        home: Home,
        seed: int,
        *,
        most: int,
        kinds: tuple[str, ...],
        longest_stop_s: float,
        recreate: Callable[[random.Random], None],
    ) -> None:
        self._home = home
        self._supervisor = Supervisor(home)
        self._random = random.Random(seed)
        self._most = most
        self._kinds = kinds
        self._longest_stop_s = longest_stop_s
        self._recreate = recreate
        self._deck: list[str] = []
        self.strikes: Counter[str] = Counter()

    def pause(self, mean_s: float) -> float:
        """Draws the seconds until the next strike."""
        return self._random.expovariate(1 / mean_s)

    def strike(self) -> None:
        """Draws a kind and strikes; a kind of which nothing lives within a moment is passed over."""
        if self.strikes.total() >= self._most:
            return
        if not self._deck:
            # Dealt like cards, and first one of each kind, so that the rare kinds come up even in a short trial.
            self._deck = [kind for kind in self._kinds for _ in range(WEIGHTS[kind] if self.strikes else 1)]
            self._random.shuffle(self._deck)
        kind = self._deck.pop()
        if kind == "recreate":
            self._recreate(self._random)
        elif kind == "machine":
            self._stop_machine()
        elif not self._kill(kind):
            return
        self.strikes[kind] += 1

    def _kill(self, kind: str) -> bool:
        deadline = time.monotonic() + _AIM_S
        while not (living := self._living(kind)) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not living:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._random.choice(living), signal.SIGKILL)
        return True

    def _stop_machine(self) -> None:
        """Stops every process of the services for a while."""
        seconds = self._random.uniform(min(_SHORTEST_STOP_S, self._longest_stop_s), self._longest_stop_s)
        with processes.stopped(self._home):
            time.sleep(seconds)

    def _living(self, kind: str) -> list[int]:
        pids = {program.name: program.pid for program in self._supervisor.programs() if program.pid}
        if kind in pids:
            return [pids[kind]]
        launcher, scheduler = pids.get("launcher", 0), pids.get("scheduler", 0)
        tasks = set(descendants(scheduler)) - set(children(scheduler))
        # A cold node is a child of its task's process.
        cold = {pid for pid in tasks if "-m runtime answer" in processes.name(pid)}
        if kind == "node":
            return sorted({*descendants(launcher), *cold})
        # Not the executor's own workers: one that dies while it takes a task from their queue keeps the queue's lock,
        # and Airflow's LocalExecutor then stands still until the scheduler starts anew.
        return sorted(tasks - cold)


def children(pid: int) -> list[int]:
    """A process's children; none for 0."""
    return _family().get(pid, []) if pid else []


def descendants(pid: int) -> list[int]:
    """A process's children, their children, and so on; none for 0."""
    family = _family()
    below, front = [], [pid] if pid else []
    while front:
        front = [child for parent in front for child in family.get(parent, [])]
        below += front
    return below


def _family() -> dict[int, list[int]]:
    """The children of every process."""
    family: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
                family.setdefault(parent, []).append(int(entry.name))
    return family
