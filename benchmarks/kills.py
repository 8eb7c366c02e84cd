"""Runs of a five-node pipeline while processes are killed at random: each must end green, whole and once.

    python -m benchmarks.kills --runs 100 --seed 1

A seeded killer sends SIGKILL, every few seconds, to a node, to a task's process, to the launcher or to the scheduler;
supervisord and Airflow's own retries have to heal all of it. At the end every run must have succeeded, each of its
nodes must have exactly one live output, whole, and nothing may lie in the artifacts that no finished execution made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from ml_metadata.proto import metadata_store_pb2

from airtight.home import Home
from benchmarks.own_services import own_services
from benchmarks.steps import HALVES
from runtime import metadata_store
from runtime.protocol import run_key
from services.airflow_api import Airflow
from services.supervisor import Supervisor

NODES = 5
_AIM_S = 5.0
PATIENCE_S = 3600.0
WEIGHTS = {"node": 12, "task": 8, "launcher": 1, "scheduler": 1}
"""How often each is hit; the last two take 10 to 20 s to come back, and all work stands still meanwhile."""
DAGS = """
from datetime import timedelta
from plugins.tfx_airflow import TfxDag

five = TfxDag("benchmarks.steps:create_five", dag_id="five", schedule=None, is_paused_upon_creation=False,
              max_active_runs=20, default_args={"retries": 20, "retry_delay": timedelta(seconds=1)})
"""


class Killer:
    """Kills one process of the services at a time.

    Args:
      home: Their state folder.
      seed: Decides what is killed, and when.
      most: Kills at most.
    """

    def __init__(self, home: Home, seed: int, most: int) -> None:
        self._most = most
        self._supervisor = Supervisor(home)
        self._random = random.Random(seed)
        self.killed: Counter[str] = Counter()

    def pause(self, mean_s: float) -> float:
        """Seconds until the next kill."""
        return self._random.expovariate(1 / mean_s)

    def strike(self) -> None:
        """Waits a moment for something of the drawn kind that lives, and kills it."""
        if self.killed.total() >= self._most:
            return
        kind = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        deadline = time.monotonic() + _AIM_S
        while not (living := self._living(kind)) and time.monotonic() < deadline:
            time.sleep(0.02)
        if living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(living), signal.SIGKILL)
                self.killed[kind] += 1

    def _living(self, kind: str) -> list[int]:
        pids = {program.name: program.pid for program in self._supervisor.programs() if program.pid}
        if kind in pids:
            return [pids[kind]]
        if kind == "node":
            return sorted(descendants(pids.get("launcher", 0)))
        # Not the executor's own workers: one that dies while it takes a task from their queue keeps the queue's lock,
        # and Airflow's LocalExecutor then stands still until the scheduler starts anew.
        workers = _children(pids.get("scheduler", 0))
        return sorted(set(descendants(pids.get("scheduler", 0))) - set(workers))


def _children(pid: int) -> list[int]:
    return _family().get(pid, []) if pid else []


def _family() -> dict[int, list[int]]:
    """The children of every process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    return children


def descendants(pid: int) -> list[int]:
    """A process's children, their children, and so on; none for 0."""
    children = _family()
    found, front = [], [pid] if pid else []
    while front:
        front = [child for parent in front for child in children.get(parent, [])]
        found += front
    return found


def judge(home: Home, runs: list[str]) -> list[str]:
    """What is wrong with lineage and artifacts, in words; empty when nothing is.

    Args:
      home: The state folder, whose services have stopped.
      runs: Ids of the runs, which must have succeeded.
    """
    wrong, owned = [], set()
    state = metadata_store_pb2.Execution
    with metadata_store.project_connection(home) as handle:
        store = handle.store
        open_ = [e.id for e in store.get_executions() if e.last_known_state in (state.NEW, state.RUNNING)]
        if open_:
            wrong.append(f"executions {open_} are still open")
        for number, run in enumerate(runs):
            context = store.get_context_by_type_and_name("pipeline_run", run_key("five", "", "", run))
            done: dict[str, list[int]] = {}
            for execution in store.get_executions_by_context(context.id) if context else []:
                if execution.last_known_state in (state.COMPLETE, state.CACHED):
                    nodes = store.get_contexts_by_execution(execution.id)
                    name = next(c.name for c in nodes if c.name.startswith("five.step_"))
                    done.setdefault(name, []).append(execution.id)
            if len(done) != NODES or any(len(found) != 1 for found in done.values()):
                wrong.append(f"{run} has the live outputs {done}")
            for (execution,) in (found for found in done.values() if len(found) == 1):
                events = store.get_events_by_execution_ids([execution])
                made = [e.artifact_id for e in events if e.type == metadata_store_pb2.Event.OUTPUT]
                for artifact in store.get_artifacts_by_id(made):
                    owned.add(artifact.uri)
                    told = [(Path(artifact.uri) / half).read_text(encoding="utf-8") for half in HALVES]
                    if told != [str(number)] * len(HALVES):
                        wrong.append(f"{artifact.uri} of {run} holds {told}")
    on_disk = {str(p) for p in (home.path / "artifacts" / "five").glob("step_*/made/*")}
    if left := sorted(on_disk - owned):
        wrong.append(f"no finished execution made {left}")
    return wrong


def main() -> int:
    """Runs the trial; 0 when nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=3.0, help="mean seconds between two kills")
    parser.add_argument("--most", type=int, default=10**6, help="kills at most")
    told = parser.parse_args()
    with own_services(DAGS) as (home, airflow):
        airflow.await_dag("five", timeout_s=120)
        start = time.monotonic()
        runs = [airflow.trigger("five", {"number": number}) for number in range(told.runs)]
        killer = Killer(home, told.seed, told.most)
        states = _until_over(airflow, runs, killer, told.every, start)
        seconds = time.monotonic() - start
        # What was killed last is buried when the launcher next starts or its nodes next run.
        Supervisor(home).stop()
        wrong = [f"{run} is {state}" for run, state in states.items() if state != "success"]
        _reap_orphans(home)
        wrong += judge(home, runs)
    print(f"{told.runs} runs in {seconds:.0f} s, seed {told.seed}, killed: {dict(killer.killed)}")
    print("\n".join(wrong) or "All runs are green; each node has one live output, whole; nothing else is left.")
    print(json.dumps({"kills": {"runs": told.runs, "seconds": round(seconds), "wrong": len(wrong), **killer.killed}}))
    return 1 if wrong else 0


def _until_over(airflow: Airflow, runs: list[str], killer: Killer, every: float, start: float) -> dict[str, str]:
    """Strikes until all runs are over; gives the state of each."""
    states = dict.fromkeys(runs, "")
    strike_at, say_at = time.monotonic() + killer.pause(every), 0.0
    while not all(state in ("success", "failed") for state in states.values()):
        if time.monotonic() - start > PATIENCE_S:
            break
        if time.monotonic() > strike_at:
            killer.strike()
            strike_at = time.monotonic() + killer.pause(every)
        for told in [run for state in ("success", "failed") for run in airflow.runs("five", state)]:
            states[told["dag_run_id"]] = told["state"]
        if time.monotonic() > say_at:
            over = sum(state in ("success", "failed") for state in states.values())
            print(f"  {time.monotonic() - start:5.0f} s: {over} of {len(runs)} over, {dict(killer.killed)}", flush=True)
            say_at = time.monotonic() + 15
        time.sleep(0.5)
    return {run: states[run] for run in runs}


def _reap_orphans(home: Home) -> None:
    from runtime import attempts

    with metadata_store.project_connection(home) as handle:
        attempts.reap_orphans(handle.store)


if __name__ == "__main__":
    raise SystemExit(main())
