"""TFX's own examples run here as they run in TFX's LocalDagRunner: locally, and on Airflow."""

import os
import subprocess
import sys
from pathlib import Path

import ml_metadata as mlmd
import pytest
import tfx.examples
from tfx.orchestration import metadata

from airtight.home import ROOT, Home
from tests.plugins.airflow_services import Airflow
from tests.tfx_examples import data
from tests.tiny_pipeline.reference import made

pytestmark = pytest.mark.slow

EXAMPLES = (
    *("hello_world", "penguin", "penguin_full", "penguin_schema", "penguin_span", "penguin_diff", "penguin_multi"),
    *("penguin_infraval", "penguin_sklearn", "taxi", "imdb", "mnist", "containers"),
)
FAST = {
    "hello_world": {"CsvExampleGen", "HelloComponent", "StatisticsGen"},
    "penguin": {"CsvExampleGen", "StatisticsGen", "SchemaGen", "Transform", "Trainer", "Evaluator"},
}
"""Those that every run of the tests tries, and the nodes of each that succeed in the reference wherever TFX runs."""
TWICE = ("penguin", "penguin_full", "penguin_span")
"""The second run of these meets what the first one left: a cache of Transform, a blessed model, a window of spans."""
NAMES = [pytest.param(name, marks=() if name in FAST else pytest.mark.tfx) for name in EXAMPLES]
MODULE = "tests.tfx_examples.examples"
DAG = """
from plugins.tfx_airflow import TfxDag
dag = TfxDag("{module}:{name}", dag_id="{name}", schedule=None, is_paused_upon_creation=False)
"""
PATIENCE_S = 1800
DONE = ("COMPLETE", "CACHED")
Did = dict[str, dict]


class Runs:
    """Runs examples in several places, each place with a folder and metadata of its own, and keeps what they did.

    Args:
      folder: Holds the data and what the runs make.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.did: dict[tuple[str, str, int], Did] = {}
        data.make(folder / "data")

    def environment(self, where: str) -> dict[str, str]:
        return {
            "TFX_EXAMPLES": str(self.folder / "data"),
            "TFX_EXAMPLES_OUT": str(self.folder / where),
            "AIRTIGHT_HOME": str(self.folder / where / "home"),
            "HOME": str(self.folder / where),
        }

    def of(self, name: str, where: str, number: int = 1) -> Did:
        """What the nodes did in an example's run of that number; it runs, and those before it, if it has not."""
        if (name, where, number) not in self.did:
            if number > 1:
                self.of(name, where, number - 1)
            (self.folder / where / name).mkdir(parents=True, exist_ok=True)
            program = {
                "reference": ("tests.tfx_examples.reference", name),
                "local": ("runtime", "run", f"{MODULE}:{name}"),
            }[where]
            self.note(name, where, number, lambda: self._start(where, name, program))
        return self.did[name, where, number]

    def reference(self, name: str, number: int) -> Did:
        """What the nodes did in TFX's own runner, which did something: nothing is equal to nothing."""
        did = self.of(name, "reference", number)
        done = {node for node, result in did.items() if result["state"] in DONE}
        assert did, f"no node of {name} ran in the reference"
        assert done >= FAST.get(name, set()), f"run {number} of the reference"
        return did

    def note(self, name: str, where: str, number: int, run) -> None:
        """Runs, and notes what the executions that came of it did."""
        before = max((execution.id for execution in self._store(name, where).get_executions()), default=0)
        run()
        self.did[name, where, number] = made(self._store(name, where), before)

    def _start(self, where: str, name: str, program: tuple[str, ...]) -> None:
        environment = os.environ | self.environment(where) | {"PYTHONPATH": str(ROOT)}
        with (self.folder / where / f"{name}.log").open("a") as log:
            subprocess.run([sys.executable, "-m", *program], env=environment, stdout=log, stderr=log, cwd=self.folder)

    def _store(self, name: str, where: str) -> mlmd.MetadataStore:
        database = self.folder / where / name / "metadata.sqlite"
        return mlmd.MetadataStore(metadata.sqlite_metadata_connection_config(str(database)))

    def table(self) -> str:
        """What ran where, as Markdown."""
        lines = ["| example | LocalDagRunner | local | Airflow |", "|---|---|---|---|"]
        for name in EXAMPLES:
            cells = [self._cell(name, where) for where in ("reference", "local", "airflow")]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def _cell(self, name: str, where: str) -> str:
        runs = [did for (example, place, _), did in sorted(self.did.items()) if (example, place) == (name, where)]
        failed = {node for did in runs for node, result in did.items() if result["state"] == "FAILED"}
        if not runs:
            return "-"
        done = " and ".join(str(sum(result["state"] in DONE for result in did.values())) for did in runs)
        return f"{done} nodes" + (f"; failed: {', '.join(sorted(failed))}" if failed else "")


def made_artifacts(did: Did) -> dict[str, dict]:
    """The nodes that gave something, and type and state of each artifact by key.

    What comes after a failed node runs in neither; a resolver that finds nothing is failed in the reference, and has no
    outputs here. Training draws at random, so one place may bless a model that the other does not: what is pushed is
    compared with the blessing of its own run.
    """
    gave = {node: result["outputs"] for node, result in did.items() if result["state"] in DONE and result["outputs"]}
    if "Evaluator" in gave:
        pushed = gave.pop("Pusher", None)
        assert pushed is not None or not did["Evaluator"]["blessed"], "a model is pushed where it was blessed"
    return gave


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    before = files()
    kept = Runs(tmp_path_factory.mktemp("tfx"))
    yield kept
    (kept.folder / "table.md").write_text(kept.table() + "\n")
    print(f"\n{kept.table()}\n")
    assert files() == before, "nothing may be written into the checkout, nor beside TFX's examples"


def files() -> set[str]:
    """The files of the checkout and of TFX's examples, but for what Python and the tools keep."""
    paths = set()
    for top in (str(ROOT), next(iter(tfx.examples.__path__))):
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
            paths |= {f"{folder}/{name}" for name in names}
    return paths


@pytest.fixture(scope="module")
def airflow(runs):
    """An Airflow with one DAG for each example."""
    (runs.folder / "airflow" / "home").mkdir(parents=True)
    installed = Airflow(
        Home(runs.folder / "airflow" / "home"),
        {name: DAG.format(module=MODULE, name=name) for name in EXAMPLES},
        more=runs.environment("airflow"),
    )
    pipelines = [f"{MODULE}:{name}" for name in EXAMPLES]
    subprocess.run(
        [sys.executable, "-m", "runtime", "compile", *pipelines], env=installed.environment, check=True, cwd=ROOT
    )
    with installed as running:
        yield running


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_locally_what_it_gives_in_tfx(runs, name):
    # What every run of the tests tries runs once; a second run of the same kind is penguin_full's.
    for number in (1, 2) if name in TWICE and name not in FAST else (1,):
        ours, reference = runs.of(name, "local", number), runs.reference(name, number)
        assert made_artifacts(ours) == made_artifacts(reference), f"run {number}"


@pytest.mark.tfx
@pytest.mark.parametrize("name", EXAMPLES)
def test_it_gives_on_airflow_what_it_gives_in_tfx(runs, airflow, name):
    (runs.folder / "airflow" / name).mkdir(exist_ok=True)
    for number in (1, 2) if name in TWICE else (1,):
        run = f"run-{number}"

        def on_airflow(run: str = run) -> None:
            airflow.ask("POST", f"dags/{name}/dagRuns", {"dag_run_id": run, "logical_date": None})
            airflow.ended(run, name, patience_s=PATIENCE_S)

        runs.note(name, "airflow", number, on_airflow)
        reference = runs.reference(name, number)
        did = runs.did[name, "airflow", number]
        assert made_artifacts(did) == made_artifacts(reference), run
        states = {task: state for task, (state, _) in airflow.ended(run, name).items()}
        # Some push only on the condition that the model is blessed.
        may_skip = "Evaluator" in did and not did["Evaluator"]["blessed"]
        others = {
            task: state for task, state in states.items() if (task, state) != ("Pusher", "skipped") or not may_skip
        }
        assert {"success"} == set(others.values()) or "FAILED" in {result["state"] for result in reference.values()}


def test_what_needs_tfx_own_airflow_runner_cannot_be_imported():
    """It is for Airflow 2; when it can be imported, it belongs among the examples."""
    imported = subprocess.run(
        [sys.executable, "-c", "import tfx.examples.chicago_taxi_pipeline.taxi_pipeline_simple"],
        env=os.environ | {"HOME": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert "cannot import name 'python_operator' from 'airflow.operators'" in imported.stderr
