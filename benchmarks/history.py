"""What history costs: a node, the report and the clean-up, with few and with many executions in the metadata store.

    python -m benchmarks.history [--executions 100 1000 10000] [--stores sqlite postgresql]

Fills a store with past runs of the flagship, a month each, all pushed. Then, in this process, which has imported TFX:

- inputs: the inputs of every node of the latest run are resolved, one after the other, as for a task on Airflow, which
  names the executions that made them;
- local inputs: the same as for a local run, which takes the latest success that the store knows of the run;
- resolver: one whole launch of the flagship's `champion`, as a task on Airflow asks for it;
- component: one whole launch of a small component, of another pipeline in the same store, likewise;
- report: the page of the twelve intervals that ran last;
- clean-up: the pass after two more runs have become old, whose models were not pushed;
- first clean-up: the pass before that, which looks at all of history.

Medians, in milliseconds of the clock and of this process's CPU time (which holds SQLite, and not PostgreSQL), and how
many calls the store got and items it answered with. SQLite lies in memory (/dev/shm) where there is
such a folder, so that the disk is not measured; PostgreSQL is a cluster of its own without fsync.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from tfx.orchestration import metadata
from tfx.orchestration.portable import inputs_utils

from airtight.home import Home
from benchmarks.postgresql import Cluster, binaries
from commands import report
from pipelines.flight_delays.settings import SETTINGS
from runtime import attempts, cross_run, launch, metadata_connection, metadata_store, retention
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from runtime.parameters import as_tfx
from runtime.protocol import NodeRequest
from tests.runtime.past_runs import PastRuns, month
from tests.runtime.store_calls import counted

SMALL = "tests.tiny_pipeline.champion:create_pipeline"
INTERVALS = 12
ROUNDS = 5
CLEANS = 3
MEMORY = Path("/dev/shm")


class Case:
    """A store with so many executions of the flagship, and what is measured in it.

    Args:
      home: The state folder.
      handle: The metadata store.
      executions: So many, about: whole runs, at least as many as the report shows.
    """

    def __init__(self, home: Home, handle: metadata.Metadata, executions: int) -> None:
        self.home, self.handle = home, handle
        self.path = compile_pipeline("flight_delays", home)
        self.compiled = CompiledPipeline.read(self.path)
        self.past = PastRuns(handle.store, home, self.compiled)
        self.nodes = [node.id for node in self.compiled.nodes]
        self.runs = max(INTERVALS, executions // len(self.nodes))
        started = time.perf_counter()
        written = self.past.write(range(self.runs))
        self.executions = dict(zip(self.nodes, written[-len(self.nodes) :], strict=True))
        self.filled_s = time.perf_counter() - started
        for node, key in (("train", "model"), ("push", "pushed"), ("ingest", "dataset")):
            for run in (self.runs - 2, self.runs - 1):
                Path(self.past.uri(node, key, self.name(run))).mkdir(parents=True)
        self.small = compile_pipeline(SMALL, home)
        self.values = dict(zip(("interval_start", "interval_end"), month(self.runs - 1), strict=True))

    def name(self, run: int) -> str:
        """Key of a past run."""
        return f"run-{run:05}"

    def request(self, path: Path, node: str, run: str, executions: Mapping[str, int]) -> NodeRequest:
        """Asks for one more attempt of a node, as the first of a task on Airflow."""
        return NodeRequest(
            *(str(path), node, run, uuid.uuid4().hex, str(self.home.path)),
            parameters=self.values,
            earlier=(),
            inputs=dict(executions),
        )

    def inputs(self) -> None:
        """Resolves the inputs of every node of the latest past run, whose executions are known."""
        self._resolve_inputs(self.executions)

    def local_inputs(self) -> None:
        """Resolves the inputs of every node of the latest past run, which the store knows by its key."""
        self._resolve_inputs(None)

    def _resolve_inputs(self, executions: Mapping[str, int] | None) -> None:
        run = self.name(self.runs - 1)
        for name in self.nodes:
            ir, request = launch._parsed(self.compiled, name), self.request(self.path, name, run, {})
            root = metadata_store.pipeline_root(ir, self.home, self.handle.store)
            node = launch._bound(ir, request, as_tfx(self.compiled.bind(request.parameters)), root)
            pinned = attempts.pin_inputs(node, run, self.handle.store, executions)
            assert all(pinned.values()), pinned
            with cross_run.bounded(node):
                inputs_utils.resolve_input_artifacts(pipeline_node=node, metadata_handle=self.handle)

    def resolver(self) -> None:
        """Launches the flagship's resolver once more."""
        self._launch(self.request(self.path, "champion", self.name(self.runs - 1), self.executions))

    def component(self) -> None:
        """Launches a small component once more."""
        self._launch(self.request(self.small, "train", "small", {"ingest": self.ingested}))

    def report(self) -> None:
        """Writes the page."""
        report.write(SETTINGS, self.home, intervals=INTERVALS)

    def clean(self) -> None:
        """Cleans up what has become old."""
        retention.clean(self.handle.store, self.home, days=0, grace_s=0)

    def becomes_old(self) -> None:
        """Adds two runs that pushed nothing, as if they were of long ago."""
        self.past.pushed = False
        self.past.write(range(self.runs, self.runs + 2))
        self.runs += 2
        time.sleep(0.01)

    def measure(self) -> dict[str, dict[str, float]]:
        """Everything, in milliseconds and items."""
        self.ingested = self._launch(self.request(self.small, "ingest", "small", {}))
        measured = (self.inputs, self.local_inputs, self.resolver, self.component, self.report)
        results = {action.__name__.replace("_", " "): _medians(action) for action in measured}
        retention._OVERLAP_MS = 0  # What was filled a moment ago is to count as long ago.
        results["first clean-up"] = _medians(self.clean, rounds=1)
        results["clean-up"] = _medians(self.clean, rounds=CLEANS, before=self.becomes_old)
        return results

    @staticmethod
    def _launch(request: NodeRequest) -> int:
        outcome = launch.launch(request)
        assert outcome.state == "complete", outcome
        return outcome.execution


def _medians(action: Callable[[], None], rounds: int = ROUNDS, before: Callable[[], None] | None = None) -> Any:
    wall, processor = [], []
    for _ in range(rounds):
        if before:
            before()
        start = time.perf_counter(), time.process_time()
        with counted() as calls:
            action()
        wall.append(time.perf_counter() - start[0])
        processor.append(time.process_time() - start[1])
    return {
        "ms": round(1000 * median(wall), 1),
        "cpu_ms": round(1000 * median(processor), 1),
        "calls": sum(calls.counts.values()),
        "items": sum(calls.items.values()),
    }


@contextmanager
def stores(kind: str) -> Iterator[str]:
    """The address of an empty store; "" is SQLite."""
    programs = binaries()
    if kind == "sqlite":
        yield ""
    elif programs is None:
        raise SystemExit("PostgreSQL is not installed (Debian: apt-get install postgresql).")
    else:
        cluster = Cluster(programs)
        try:
            cluster.start()
            yield cluster.address()
        finally:
            cluster.remove()


def measure(kind: str, executions: int) -> dict[str, Any]:
    """One store of one size."""
    with stores(kind) as address, tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        os.environ["AIRTIGHT_HOME"], os.environ[metadata_connection.ENVIRONMENT] = folder, address
        home = Home(Path(folder))
        with metadata_store.project_connection(home) as handle:
            case = Case(home, handle, executions)
            filled = {"executions": case.runs * len(case.nodes), "filled_s": round(case.filled_s, 1)}
            return filled | case.measure()


def main() -> None:
    """Prints a table and the same as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--executions", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--stores", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    args = parser.parse_args()
    results: dict[str, dict[int, Any]] = {}
    for kind in args.stores:
        for executions in args.executions:
            case = results.setdefault(kind, {})[executions] = measure(kind, executions)
            print(f"\n{kind}, {case['executions']} executions (filled in {case['filled_s']} s)", flush=True)
            for name, result in case.items():
                if isinstance(result, dict):
                    times = f"{result['ms']:9.1f} ms {result['cpu_ms']:9.1f} ms CPU"
                    print(f"  {name:15} {times} {result['calls']:6} calls {result['items']:7} items", flush=True)
    print(json.dumps({"history": results}))


if __name__ == "__main__":
    main()
