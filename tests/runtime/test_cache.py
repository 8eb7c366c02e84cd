"""The cache: when an earlier result stands for a new one, and what it says of it."""

import importlib
import sys
from pathlib import Path

import pytest

from airtight.home import Home
from runtime import cache, metadata_store
from runtime.compiled_pipeline import CompiledPipeline
from runtime.launch import launch
from runtime.protocol import Outcome
from tests.tiny_pipeline.running import Run, uri

PIPELINE = '''
"""A number, and its double."""
from tfx.orchestration.pipeline import Pipeline
from airtight.parameters import Parameter
from runtime.task_options import task
from runtime.parameters import runtime_parameter
from {name} import steps

START = Parameter("start", "int", 1)
TWICE = Parameter("twice", "bool", False)
PARAMETERS = (START, TWICE)


def create_pipeline() -> Pipeline:
    made = steps.make(start=runtime_parameter(START)).with_id("make")
    doubled = steps.double(
        number=made.outputs["number"], by="{name}.factor:FACTOR", twice=runtime_parameter(TWICE)
    ).with_id("double")
    {options}
    return Pipeline(pipeline_name="numbers", components=[made, doubled], enable_cache=True)
'''
STEPS = '''
from pathlib import Path
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from airtight.import_string import load
from {name} import helping


def outside(parameters):
    return Path(__file__).with_name("outside.txt").read_text() + str(parameters["start"])


@component
def make(number: OutputArtifact[standard_artifacts.Model], start: Parameter[int]) -> None:
    """Makes it."""
    Path(number.uri, "number").write_text(helping.text(start))


@component
def double(
    number: InputArtifact[standard_artifacts.Model],
    doubled: OutputArtifact[standard_artifacts.ModelEvaluation],
    by: Parameter[str],
    twice: Parameter[int],
) -> None:
    """Doubles it."""
    value = int(Path(number.uri, "number").read_text()) * load(by)
    Path(doubled.uri, "number").write_text(str(value * 2 if twice else value))
'''
FILES = {
    "__init__.py": "",
    "steps.py": STEPS,
    "helping.py": "def text(number):\n    return str(number)\n",
    "factor.py": "FACTOR = 2\n",
    "apart.py": "NOTHING = 1\n",
    "outside.txt": "as it was",
}


class Numbers:
    """A pipeline whose files a test may change, as a person would between two runs."""

    def __init__(self, home: Home, folder: Path, name: str) -> None:
        self.home, self.folder, self.name = home, folder / name, name
        self.options = "pass"
        self.folder.mkdir()
        for file, text in FILES.items():
            (self.folder / file).write_text(text.replace("{name}", name), encoding="utf-8")

    def run(self, run: str, *, use_cache: bool = True, **values: int | bool) -> dict[str, Outcome]:
        for module in [m for m in sys.modules if m == self.name or m.startswith(f"{self.name}.")]:
            del sys.modules[module]
        importlib.invalidate_caches()
        text = PIPELINE.replace("{name}", self.name).replace("{options}", self.options)
        (self.folder / "pipeline.py").write_text(text, encoding="utf-8")
        started = Run(self.home, f"{self.name}.pipeline:create_pipeline", run)
        started.values = dict(values)
        requests = [started.request(node) for node in ("make", "double")]
        return {r.node: launch(type(r)(**{**vars(r), "use_cache": use_cache})) for r in requests}

    def told(self, outcome: Outcome) -> str:
        with metadata_store.project_connection(self.home) as handle:
            (execution,) = handle.store.get_executions_by_id([outcome.execution])
        return execution.custom_properties[cache.TOLD].string_value


@pytest.fixture
def numbers(home, tmp_path, monkeypatch, request):
    monkeypatch.syspath_prepend(str(tmp_path))
    return Numbers(home, tmp_path, f"numbers_{abs(hash(request.node.name))}")


def states(outcomes: dict[str, Outcome]) -> list[str]:
    assert all(outcome.state != "failed" for outcome in outcomes.values()), outcomes
    return [outcome.state for outcome in outcomes.values()]


@pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)
def test_equal_runs_share_their_results_and_say_whose(numbers):
    first, second = numbers.run("a"), numbers.run("b")
    assert states(first) == ["complete", "complete"]
    assert states(second) == ["cached", "cached"]
    assert uri(second["double"], "doubled") == uri(first["double"], "doubled")
    assert numbers.told(first["make"]) == "missed: this node has no earlier result"
    assert numbers.told(second["make"]) == (
        f"hit: code, versions, parameters and inputs equal those of execution {first['make'].execution} in the run a"
    )
    assert "was taken from the cache" in second["make"].summary


@pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)
def test_a_miss_names_the_parameter_that_changed(numbers):
    numbers.run("a")
    changed = numbers.run("b", start=5)
    assert states(changed) == ["complete", "complete"]
    assert "parameter start was 1, is 5; code, versions equal" in numbers.told(changed["make"])
    assert "input number changed; code, versions, parameters equal" in numbers.told(changed["double"])
    assert (uri(changed["double"], "doubled") / "number").read_text() == "10"


def test_code_that_a_component_imports_counts_and_other_code_does_not(numbers):
    numbers.run("a")
    (numbers.folder / "apart.py").write_text("NOTHING = 2\n")
    assert states(numbers.run("b")) == ["cached", "cached"]
    (numbers.folder / "helping.py").write_text("def text(number):\n    return str(number) + ' '\n")
    changed = numbers.run("c")
    assert states(changed) == ["complete", "complete"]
    assert "helping.py changed; versions, parameters equal" in numbers.told(changed["make"])


def test_code_that_a_parameter_names_counts(numbers):
    numbers.run("a")
    (numbers.folder / "factor.py").write_text("FACTOR = 3\n")
    changed = numbers.run("b")
    assert states(changed) == ["cached", "complete"]
    assert "factor.py changed" in numbers.told(changed["double"])
    assert (uri(changed["double"], "doubled") / "number").read_text() == "3"


def test_an_input_of_equal_contents_hits_though_it_was_made_anew(numbers):
    numbers.run("a")
    (numbers.folder / "helping.py").write_text("def text(number):\n    return f'{number}'\n")
    changed = numbers.run("b")
    # `double` shares the module of `make`, and so its code changed, too; its own code alone is compared here.
    assert states(changed) == ["complete", "complete"]
    numbers.options = "task(made, cache=False)"
    again = numbers.run("c")
    assert states(again) == ["complete", "cached"]


def test_another_version_of_a_library_misses(numbers, monkeypatch):
    numbers.run("a")
    known = cache.fingerprint.versions
    monkeypatch.setattr(cache.fingerprint, "versions", lambda names: known(names) | {"tfx": "9.9"})
    changed = numbers.run("b")
    assert "version tfx was" in numbers.told(changed["make"])
    assert "is 9.9; code, parameters equal" in numbers.told(changed["make"])


def test_what_lies_outside_of_the_inputs_counts_when_the_pipeline_says_so(numbers):
    numbers.options = f'task(made, cache_on="{numbers.name}.steps:outside")'
    numbers.run("a")
    assert states(numbers.run("b")) == ["cached", "cached"]
    (numbers.folder / "outside.txt").write_text("as it is")
    changed = numbers.run("c")
    assert states(changed) == ["complete", "cached"]
    assert "steps:outside changed; code, versions, parameters equal" in numbers.told(changed["make"])


def test_a_run_and_a_node_can_do_without(numbers):
    numbers.run("a")
    without = numbers.run("b", use_cache=False)
    assert states(without) == ["complete", "complete"]
    assert numbers.told(without["make"]) == "not asked: this run was started without it"
    numbers.options = "task(doubled, cache=False)"
    assert states(numbers.run("c")) == ["cached", "complete"]


def test_a_node_that_is_cleared_runs(numbers):
    numbers.run("a")
    cleared = numbers.run("a")
    assert states(cleared) == ["complete", "complete"]
    assert "asked to run again" in numbers.told(cleared["make"])


def test_a_result_that_is_too_old_counts_no_longer(numbers, monkeypatch):
    numbers.options = "task(made, cache_days=7); task(doubled, cache_days=10)"
    numbers.run("a")
    now = cache._now_ms()
    monkeypatch.setattr(cache, "_now_ms", lambda: now + 8 * 86_400_000)
    later = numbers.run("b")
    assert states(later) == ["complete", "cached"]
    assert numbers.told(later["make"]) == "missed: the equal result is 8.0 days old, and counts for 7"


def test_outputs_that_were_removed_are_made_again(numbers):
    first = numbers.run("a")
    (uri(first["make"], "number") / "number").unlink()
    uri(first["make"], "number").rmdir()
    again = numbers.run("b")
    assert states(again) == ["complete", "cached"]
    assert f"the outputs of execution {first['make'].execution}, which is equal, are gone" in numbers.told(
        again["make"]
    )


def test_a_bool_arrives_as_one_and_tells_runs_apart(numbers):
    numbers.run("a")
    twice = numbers.run("b", twice=True)
    assert states(twice) == ["cached", "complete"]
    assert (uri(twice["double"], "doubled") / "number").read_text() == "4"
    assert "parameter twice was 0, is 1" in numbers.told(twice["double"])
    assert [
        p.type
        for p in CompiledPipeline.read(
            numbers.home.compiled / f"{numbers.name}.pipeline.create_pipeline.json"
        ).parameters
    ] == ["int", "bool"]
