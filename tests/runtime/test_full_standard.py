"""TFX's standard components, all of them in one pipeline, through our launcher."""

import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from airtight.home import ROOT
from runtime import cache, metadata_store
from runtime.client import Call
from runtime.compiled_pipeline import CompiledPipeline
from runtime.local import run as run_locally
from runtime.protocol import Outcome
from tests.runtime.serving import start_server
from tests.tiny_pipeline.running import Run, fault, uri
from tests.waiting import PATIENCE_S

SOURCE = "tests.tiny_pipeline.full_standard:create_pipeline"
NODES = ("CsvExampleGen", "baseline", "StatisticsGen", "SchemaGen", "Trainer", "Evaluator", "decide", "Pusher")


@pytest.fixture
def folder(home, tmp_path, monkeypatch):
    """A table, a module file of the user's own with a module beside it, and a place to push to."""
    draw = random.Random(1)
    sizes = [(draw.randint(0, 10), draw.randint(0, 10)) for _ in range(300)]
    (tmp_path / "data").mkdir()
    rows = "".join(f"{width},{height},{int(width + height > 10)}\n" for width, height in sizes)
    (tmp_path / "data" / "rows.csv").write_text(f"width,height,large\n{rows}")
    (tmp_path / "code").mkdir()
    code = ROOT / "tests" / "tiny_pipeline" / "full_standard_module.py"
    shutil.copy(code, tmp_path / "code" / "user_module.py")
    (tmp_path / "code" / "beside.py").write_text("RATE = 0.1\n")
    with (tmp_path / "code" / "user_module.py").open("a") as file:
        file.write("\nimport beside\n\nassert beside.RATE\n")
    monkeypatch.setenv("STANDARD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("STANDARD_MODULE", str(tmp_path / "code" / "user_module.py"))
    monkeypatch.setenv("STANDARD_PUSHED", str(tmp_path / "pushed"))
    monkeypatch.setenv("STANDARD_THRESHOLD", "0.6")
    return tmp_path


@pytest.fixture
def ran(home, folder):
    """Runs all nodes, and gives the states and the outcomes."""

    def run(name: str):
        outcomes = run_locally(Run(home, SOURCE).compiled, home, name, {})
        assert not [o.error for o in outcomes.values() if o.state == "failed"]
        return {node: outcome.state for node, outcome in outcomes.items()}, outcomes

    return run


def cache_message(home, outcome) -> str:
    with metadata_store.project_connection(home) as handle:
        (execution,) = handle.store.get_executions_by_id([outcome.execution])
    return execution.custom_properties[cache.MESSAGE].string_value


@pytest.mark.slow
@pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)
def test_all_nodes_run_hit_the_cache_and_miss_when_the_module_file_changes(home, folder, ran):
    states, first = ran("first")
    assert states == dict.fromkeys(NODES, "complete")
    assert (uri(first["CsvExampleGen"], "examples") / "Split-eval").is_dir()
    assert (uri(first["SchemaGen"], "schema") / "schema.pbtxt").is_file()
    assert (uri(first["Trainer"], "model") / "Format-Serving" / "saved_model.pb").is_file()
    assert (uri(first["Evaluator"], "blessing") / "BLESSED").is_file()
    assert first["baseline"].outputs == {}, "no model was blessed yet"
    (version,) = (folder / "pushed").iterdir()
    assert (version / "saved_model.pb").is_file()

    states, second = ran("second")
    # There is a baseline now, and so the Evaluator judges anew.
    assert [node for node in NODES if states[node] == "cached"] == [
        "CsvExampleGen",
        "StatisticsGen",
        "SchemaGen",
        "Trainer",
    ]
    assert second["baseline"].outputs["model"][0]["uri"] == first["Trainer"].outputs["model"][0]["uri"]
    assert "input baseline_model changed" in cache_message(home, second["Evaluator"])

    states, _ = ran("third")
    assert [node for node in NODES if states[node] != "cached"] == ["baseline", "Pusher"], "TFX resolves anew each time"

    with (folder / "code" / "user_module.py").open("a") as file:
        file.write("# A change.\n")
    states, changed = ran("changed")
    assert states["SchemaGen"] == "cached"
    assert states["Trainer"] == "complete"
    assert "user_module.py changed; versions, parameters, inputs equal" in cache_message(home, changed["Trainer"])

    (folder / "code" / "beside.py").write_text("RATE = 0.2\n")
    states, changed = ran("changed beside")
    assert states["Trainer"] == "complete"
    assert "beside.py changed" in cache_message(home, changed["Trainer"])


NOISE = (
    "absl::InitializeLog",
    "InitGoogleLogging",
    "oneDNN",
    "cuInit",
    "cuda drivers",
    "cpu_feature_guard",
    "CPU instructions",
    "Missing pipeline option",
    "Reading from pattern",
    "SavedModel saved prior to TF 2.5",
    "tf_record_iterator",
    "DeprecationWarning",
    "RuntimeWarning",
    "py4j",
)
"""What libraries say that nobody who reads a task's log can use."""


@pytest.mark.slow
def test_all_nodes_run_in_the_warm_launcher_and_what_they_print_is_for_people(home, folder):
    run = Run(home, SOURCE)
    server = start_server(home)
    try:
        ended = {node: in_full(run, node, home.launcher_socket) for node in NODES}
    finally:
        server.terminate()
        assert server.wait(PATIENCE_S) == 0
    # A process of its own imports everything anew, and prints what goes with that.
    cold = {f"{node}, cold": in_full(run, node, None) for node in ("Trainer", "Evaluator")}
    assert {outcome.state for outcome, _ in (ended | cold).values()} == {"complete"}
    assert list((folder / "pushed").glob("*/saved_model.pb"))
    for node, (_, lines) in (ended | cold).items():
        assert [line for line in lines if any(noise in line for noise in NOISE)] == [], node
        ended_well = [f"{node.removesuffix(', cold')} {how} (execution" for how in ("is done", "found nothing yet")]
        assert any(sentence in line for line in lines for sentence in ended_well), node


def in_full(run: Run, node: str, launcher: Path | None) -> tuple[Outcome, list[str]]:
    """A node's outcome, and all that its task would log."""
    with Call(replace(run.request(node), use_cache=False), launcher) as started:
        lines = list(started.lines())
        return started.outcome, lines


@pytest.mark.slow
def test_a_model_below_the_threshold_is_not_blessed_and_its_pusher_is_skipped(home, folder, ran, monkeypatch):
    monkeypatch.setenv("STANDARD_THRESHOLD", "1.1")
    states, outcomes = ran("strict")
    assert states == dict.fromkeys(NODES, "complete") | {"Pusher": "skipped"}
    assert (uri(outcomes["Evaluator"], "blessing") / "NOT_BLESSED").is_file()
    assert not (folder / "pushed").exists()


def test_compiling_packs_no_wheel_and_names_the_module_file(home, folder, monkeypatch):
    monkeypatch.setenv("STANDARD_ROOT", str(folder / "root"))
    compiled = CompiledPipeline.read(Run(home, SOURCE).compiled)
    assert str(folder / "code" / "user_module.py") in str(compiled.ir)
    assert not (folder / "root").exists()
    assert compiled.node("Pusher").upstream == ("Evaluator", "Trainer", "decide")


@pytest.mark.slow
def test_a_module_file_that_is_not_there_is_named(home, folder):
    run = Run(home, SOURCE)
    for node in ("CsvExampleGen", "StatisticsGen", "SchemaGen"):
        assert run.node(node).state == "complete"
    Path(folder / "code" / "user_module.py").unlink()
    missing = fault(run.node("Trainer"))
    assert not missing["transient"]
    assert missing["message"] == "The module file of Trainer is not there."
    assert str(folder / "code" / "user_module.py") in missing["expected"]
