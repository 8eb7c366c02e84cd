"""Pipelines that we did not write: TFX's own components, without PARAMETERS."""

import pytest

from runtime.compiled_pipeline import CompiledPipeline
from runtime.local import run as run_locally
from tests.tiny_pipeline.running import Run, fault, uri

SOURCE = "tests.tiny_pipeline.standard:create_pipeline"


@pytest.fixture
def standard(home, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("a,b\n1,x\n2,y\n3,z\n")
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("STANDARD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("STANDARD_MODEL", str(tmp_path / "model"))
    return lambda answer: Run(home, SOURCE, answer=answer)


def ready(run: Run) -> Run:
    for node in ("CsvExampleGen", "imported.model", "latest", "decide"):
        assert run.node(node).state == "complete", node
    return run


def test_parameters_are_found_in_the_compiled_pipeline(standard):
    compiled = CompiledPipeline.read(standard(1).compiled)
    assert [(parameter.name, parameter.type) for parameter in compiled.parameters] == [("answer", "int")]
    assert compiled.required == ("answer",)
    assert not compiled.interval
    assert compiled.node("use").upstream == ("decide", "imported.model", "latest")


def test_drivers_importers_and_resolvers_run(standard):
    run = ready(standard(1))
    assert (uri(run.node("CsvExampleGen"), "examples") / "Split-train").is_dir()
    assert run.node("use").state == "complete"
    assert run.node("after").state == "complete"


def test_a_condition_that_does_not_hold_is_a_skip(standard):
    run = ready(standard(0))
    assert run.node("use").state == "skipped"
    assert "use has no output in this run" in fault(run.node("after"))["message"]


def test_a_node_skipped_on_its_second_attempt_no_longer_gives_its_first_output(standard):
    run = ready(standard(1))
    assert run.node("use").state == run.node("after").state == "complete"
    run.node("decide", answer=0)
    assert run.node("use").state == "skipped"
    assert fault(run.node("after"))


@pytest.mark.parametrize("node", ["imported.model", "latest"])
def test_system_nodes_tried_twice_give_one_artifact(standard, node):
    run = ready(standard(1))
    assert run.node(node).state in ("complete", "cached")
    assert run.node("use").state == "complete"


def test_a_local_run_skips_what_needs_a_skipped_node_s_output(standard, home):
    run = standard(0)
    outcomes = run_locally(run.compiled, home, "here", {"answer": 0})
    assert outcomes["use"].state == outcomes["after"].state == "skipped"
