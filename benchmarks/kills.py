"""Runs of small pipelines while what runs them is struck at random: each must end green, whole and once.

    python -m benchmarks.kills --runs 100 --seed 1
    python -m benchmarks.kills --metadata postgresql --airflow postgresql

Every few seconds a seeded killer sends SIGKILL to a node, to a task's process, to the launcher or to the scheduler,
stops every process of the services for up to 70 s, or deletes a run, under way or over, and creates it again under
the same id with another value. Supervisord and Airflow's own retries have to heal all of it. Most runs are of five
nodes in a row; some have a node that runs cold, some are mapped three times. At the end every run must have succeeded,
each of its nodes must have exactly one live output for each map index, whole and of the run's own value, the one that
Airflow names, and nothing may lie in the artifacts that no finished execution made.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import ml_metadata as mlmd
from ml_metadata.proto import metadata_store_pb2

from airtight.errors import TransientError
from airtight.home import Home
from benchmarks.killer import LONGEST_STOP_S, WEIGHTS, Killer
from benchmarks.own_services import own_services
from benchmarks.postgresql import Cluster, binaries
from benchmarks.steps import HALVES
from runtime import metadata_store, worker
from services.airflow_api import Airflow
from services.supervisor import Supervisor

PATIENCE_S = 5400.0
_API_PATIENCE_S = 300.0
MAPPED = 3
"""Map indices of a run of the DAG `mapped`."""
_VALUES = 10
"""Room for the values of one run, which are all its map indices'."""
_COLD_EVERY, _MAPPED_EVERY = 10, 8
_DONE = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)
DAGS = f"""
from datetime import timedelta
from airflow.sdk import DAG, task, task_group
from plugins.tfx_airflow import TfxDag, TfxTaskGroup

options = dict(schedule=None, is_paused_upon_creation=False, max_active_runs=20,
               default_args=dict(retries=20, retry_delay=timedelta(seconds=1)))
five = TfxDag("benchmarks.steps:create_five", dag_id="five", **options)
cold = TfxDag("benchmarks.steps:create_cold", dag_id="cold", **options)

with DAG("mapped", params=dict(number=0), **options) as mapped:
    @task
    def numbers(params):
        return [params["number"] + index for index in range({MAPPED})]

    @task_group
    def each(number):
        TfxTaskGroup("benchmarks.steps:create_mapped", group_id="steps", overrides=dict(number=number))

    each.expand(number=numbers())
"""
T = TypeVar("T")
NODES = {"five": 5, "cold": 3, "mapped": 3}


@dataclass
class Run:
    """A run of one of the DAGs.

    Args:
      dag: The DAG.
      id: The run's id.
      number: The value of its first node; of a mapped run that of map index 0.
      deleted: Such values of deleted runs that had the same id.
    """

    dag: str
    id: str
    number: int
    deleted: list[int] = field(default_factory=list)

    @property
    def indices(self) -> list[int]:
        """Its map indices; -1 for a run that is not mapped."""
        return list(range(MAPPED)) if self.dag == "mapped" else [-1]

    def task(self, node: str) -> str:
        """The task of a node."""
        return f"each.steps.{node}" if self.dag == "mapped" else node


class Trial:
    """The runs of one trial.

    Args:
      airflow: Airflow's API.
      runs: Their number, of all DAGs together.
    """

    def __init__(self, airflow: Airflow, runs: int) -> None:
        self._airflow = airflow
        self._numbers = iter(range(0, 10**9, _VALUES))
        dags = ["mapped" if n % _MAPPED_EVERY == 1 else "cold" if n % _COLD_EVERY == 2 else "five" for n in range(runs)]
        self.runs = [self._trigger(dag, f"run_{place}") for place, dag in enumerate(dags)]

    def _trigger(self, dag: str, run_id: str) -> Run:
        number = next(self._numbers)
        # A trigger whose answer did not come may have been heard.
        _patiently(lambda: self._airflow.has_run(dag, run_id) or self._airflow.trigger(dag, {"number": number}, run_id))
        return Run(dag, run_id, number)

    def recreate(self, chance: random.Random) -> None:
        """Deletes a run, whatever its state, and creates it again under the same id with a value of its own."""
        run = chance.choice(self.runs)
        _patiently(lambda: self._airflow.delete_run(run.dag, run.id))
        run.deleted.append(run.number)
        run.number = self._trigger(run.dag, run.id).number

    def states(self) -> dict[str, str]:
        """The state of each run that is over, by its id."""
        return {
            run["dag_run_id"]: state
            for dag in NODES
            for state in ("success", "failed")
            for run in _patiently(functools.partial(self._airflow.runs, dag, state))
        }

    def named(self) -> dict[tuple[str, str, int], str]:
        """The output that Airflow names for each run, node and value; "" for none."""
        return {
            (run.id, node, run.number + max(index, 0)): next(
                (artifact["uri"] for artifact in outputs.get("made", ())), ""
            )
            for run in self.runs
            for node in _nodes(run.dag)
            for index in run.indices
            for outputs in [
                _patiently(functools.partial(self._airflow.outputs, run.dag, run.id, run.task(node), index))
            ]
        }


def _patiently(call: Callable[[], T]) -> T:
    """Calls Airflow's API until it answers, which takes a while after a standstill."""
    deadline = time.monotonic() + _API_PATIENCE_S
    while True:
        try:
            return call()
        except TransientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def judge(home: Home, runs: list[Run], named: dict[tuple[str, str, int], str]) -> list[str]:
    """Compares lineage and artifacts with what the runs should have made.

    Args:
      home: The state folder, whose services have stopped.
      runs: The runs, which must have succeeded.
      named: The output that Airflow names for each run, node and value.

    Returns:
      What is wrong, in words; empty when nothing is.
    """
    wrong = []
    with metadata_store.project_connection(home) as handle:
        state = metadata_store_pb2.Execution
        open_ = [e.id for e in handle.store.get_executions() if e.last_known_state in (state.NEW, state.RUNNING)]
        if open_:
            wrong.append(f"executions {open_} are still open")
        live: dict[tuple[str, str, int], list[str]] = {}
        for (run_id, node), uri in _live_outputs(handle.store):
            halves = {half: _text(Path(uri) / half) for half in HALVES}
            if len(set(halves.values())) == 1 and halves[HALVES[0]].isdigit():
                live.setdefault((run_id, node, int(halves[HALVES[0]])), []).append(uri)
            else:
                wrong.append(f"{uri} of {node} in {run_id} holds {halves}")
    on_disk = {str(path) for path in (home.path / "artifacts").rglob("step_*/made/*")}
    if left := sorted(on_disk - {uri for uris in live.values() for uri in uris}):
        wrong.append(f"no finished execution made {left}")
    for run in runs:
        for node in _nodes(run.dag):
            for index in run.indices:
                key = (run.id, node, run.number + max(index, 0))
                uris = live.pop(key, [])
                if uris != [named.get(key)]:
                    wrong.append(f"{key} of {run.dag} has the live outputs {uris}, and Airflow names {named.get(key)}")
                # A run that was deleted may have made its outputs before, each once.
                for number in run.deleted:
                    if len(uris := live.pop((run.id, node, number + max(index, 0)), [])) > 1:
                        wrong.append(f"{node} of the deleted {run.id} has the live outputs {uris}")
    return wrong + [f"{key} has the live outputs {uris}, which no run should have made" for key, uris in live.items()]


def _live_outputs(store: mlmd.MetadataStore) -> Iterator[tuple[tuple[str, str], str]]:
    """Yields run id and node of each execution that succeeded, and the place of what it made."""
    for attempt in store.get_contexts_by_type("node_attempt"):
        for execution in store.get_executions_by_context(attempt.id):
            if execution.last_known_state not in _DONE:
                continue
            events = store.get_events_by_execution_ids([execution.id])
            made = [event.artifact_id for event in events if event.type == metadata_store_pb2.Event.OUTPUT]
            for artifact in store.get_artifacts_by_id(made):
                run_id, node = attempt.custom_properties["run_id"].string_value, attempt.name.split("/")[-2]
                yield (run_id, node), artifact.uri


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "(nothing)"


def _nodes(dag: str) -> list[str]:
    return [f"step_{place}" for place in range(NODES[dag])]


def main() -> int:
    """Runs the trial; 0 when nothing is wrong."""
    args = _arguments()
    with _databases(args.metadata, args.airflow), own_services(DAGS) as (home, airflow):
        for dag in NODES:
            airflow.await_dag(dag, timeout_s=180)
        start = time.monotonic()
        trial = Trial(airflow, args.runs)
        killer = Killer(
            home,
            args.seed,
            most=2 * args.runs if args.most is None else args.most,
            kinds=tuple(args.kinds),
            longest_stop_s=args.longest_stop,
            recreate=trial.recreate,
        )
        states = _until_over(trial, killer, args.every, start)
        seconds = time.monotonic() - start
        named = trial.named()
        # What was killed last is marked as failed when the launcher next starts or its nodes next run.
        Supervisor(home).stop()
        wrong = [f"{run.id} of {run.dag} is {s}" for run in trial.runs if (s := states.get(run.id)) != "success"]
        worker.reap_orphans()
        wrong += judge(home, trial.runs, named)
    strikes = dict(killer.strikes)
    print(f"{args.runs} runs in {seconds:.0f} s, seed {args.seed}, strikes: {strikes}")
    print("\n".join(wrong) or "All runs are green; each node has one live output, whole; nothing else is left.")
    print(json.dumps({"kills": {"runs": args.runs, "seconds": round(seconds), "wrong": len(wrong), **strikes}}))
    return 1 if wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=6.0, help="mean seconds between two strikes")
    parser.add_argument(
        "--most", type=int, help="strikes at most; two a run, so that runs that are created again come to an end"
    )
    parser.add_argument("--kinds", nargs="+", choices=list(WEIGHTS), default=list(WEIGHTS), help="what is struck")
    parser.add_argument(
        "--longest-stop", type=float, default=LONGEST_STOP_S, help="seconds that the machine stands still"
    )
    stores = ("sqlite", "postgresql")
    parser.add_argument("--metadata", choices=stores, default="sqlite", help="where ML Metadata lies")
    parser.add_argument("--airflow", choices=stores, default="sqlite", help="where Airflow's database lies")
    return parser.parse_args()


@contextlib.contextmanager
def _databases(metadata: str, airflow: str) -> Iterator[None]:
    """Starts a PostgreSQL server for what is to lie there, and names its databases to the services."""
    if "postgresql" not in (metadata, airflow):
        yield
        return
    programs = binaries()
    if programs is None:
        sys.exit("PostgreSQL is not installed (Debian: apt-get install postgresql).")
    cluster = Cluster(programs)
    try:
        cluster.start()
        if metadata == "postgresql":
            os.environ["AIRTIGHT_METADATA"] = cluster.address()
        if airflow == "postgresql":
            address = cluster.new_database().replace("postgresql://", "postgresql+psycopg2://", 1)
            os.environ["AIRTIGHT_AIRFLOW_DATABASE"] = address
        yield
    finally:
        cluster.remove()


def _until_over(trial: Trial, killer: Killer, every: float, start: float) -> dict[str, str]:
    """Strikes until all runs are over; gives the state of each."""
    strike_at, report_at = time.monotonic() + killer.pause(every), 0.0
    while len(states := trial.states()) < len(trial.runs) and time.monotonic() - start < PATIENCE_S:
        if time.monotonic() > strike_at:
            killer.strike()
            strike_at = time.monotonic() + killer.pause(every)
        if time.monotonic() > report_at:
            elapsed = time.monotonic() - start
            print(f"  {elapsed:5.0f} s: {len(states)} of {len(trial.runs)} over, {dict(killer.strikes)}", flush=True)
            report_at = time.monotonic() + 15
        time.sleep(0.5)
    return states


if __name__ == "__main__":
    raise SystemExit(main())
