"""The cache: when an earlier result stands for a new one, and what it says of it."""

import importlib
import os
import shutil
import sys
import traceback
from pathlib import Path

import ml_metadata as mlmd
import pytest
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio

from airtight.home import Home
from runtime import cache, content_digest, metadata_store
from runtime.compiled_store import current
from runtime.launch import launch
from runtime.protocol import Outcome
from tests.tiny_pipeline.running import Run, uri

State = metadata_store_pb2.Execution
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
    return Pipeline(pipeline_name="numbers", components=[made, doubled], {arguments})
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
        self.options, self.arguments = "pass", "enable_cache=True"
        self.folder.mkdir()
        for file, text in FILES.items():
            (self.folder / file).write_text(text.replace("{name}", name), encoding="utf-8")

    def run(self, run: str, *, use_cache: bool = True, **values: int | bool) -> dict[str, Outcome]:
        for module in [m for m in sys.modules if m == self.name or m.startswith(f"{self.name}.")]:
            del sys.modules[module]
        importlib.invalidate_caches()
        text = PIPELINE.replace("{name}", self.name).replace("{options}", self.options)
        text = text.replace("{arguments}", self.arguments)
        (self.folder / "pipeline.py").write_text(text, encoding="utf-8")
        started = Run(self.home, f"{self.name}.pipeline:create_pipeline", run)
        started.values = dict(values)
        requests = [started.request(node) for node in ("make", "double")]
        return {r.node: launch(type(r)(**{**vars(r), "use_cache": use_cache})) for r in requests}

    def message(self, outcome: Outcome) -> str:
        return message_of(self.home, outcome)


def message_of(home: Home, outcome: Outcome) -> str:
    """What the cache noted of an execution."""
    with metadata_store.project_connection(home) as handle:
        (execution,) = handle.store.get_executions_by_id([outcome.execution])
    return execution.custom_properties[cache.MESSAGE].string_value


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
    assert numbers.message(first["make"]) == "missed: this node has no earlier result"
    assert numbers.message(second["make"]) == (
        f"hit: code, versions, parameters and inputs equal those of execution {first['make'].execution} in the run a"
    )
    assert "was taken from the cache" in second["make"].summary


@pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)
def test_a_miss_names_the_parameter_that_changed(numbers):
    numbers.run("a")
    changed = numbers.run("b", start=5)
    assert states(changed) == ["complete", "complete"]
    assert "parameter start was 1, is 5; code, versions equal" in numbers.message(changed["make"])
    assert "input number changed; code, versions, parameters equal" in numbers.message(changed["double"])
    assert (uri(changed["double"], "doubled") / "number").read_text() == "10"


def test_code_in_a_folder_without_init_counts(numbers):
    (numbers.folder / "__init__.py").unlink()
    numbers.run("a")
    (numbers.folder / "helping.py").write_text("def text(number):\n    return str(number + 1)\n")
    changed = numbers.run("b")
    assert states(changed) == ["complete", "complete"]
    assert f"code {numbers.folder}/helping.py changed" in numbers.message(changed["make"])
    assert (uri(changed["double"], "doubled") / "number").read_text() == "4"


def test_code_that_a_component_imports_counts_and_other_code_does_not(numbers):
    numbers.run("a")
    (numbers.folder / "apart.py").write_text("NOTHING = 2\n")
    assert states(numbers.run("b")) == ["cached", "cached"]
    (numbers.folder / "helping.py").write_text("def text(number):\n    return str(number) + ' '\n")
    changed = numbers.run("c")
    assert states(changed) == ["complete", "complete"]
    assert "helping.py changed; versions, parameters equal" in numbers.message(changed["make"])


def test_code_that_a_parameter_names_counts(numbers):
    numbers.run("a")
    (numbers.folder / "factor.py").write_text("FACTOR = 3\n")
    changed = numbers.run("b")
    assert states(changed) == ["cached", "complete"]
    assert "factor.py changed" in numbers.message(changed["double"])
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
    # The launcher asks for TFX's alone, which must be the one that compiled the pipeline.
    monkeypatch.setattr(
        cache.fingerprint, "versions", lambda names: known(names) | ({} if names == ("tfx",) else {"tfx": "9.9"})
    )
    changed = numbers.run("b")
    assert "version tfx was" in numbers.message(changed["make"])
    assert "is 9.9; code, parameters equal" in numbers.message(changed["make"])


def test_what_lies_outside_of_the_inputs_counts_when_the_pipeline_says_so(numbers):
    numbers.options = f'task(made, cache_on="{numbers.name}.steps:outside")'
    numbers.run("a")
    assert states(numbers.run("b")) == ["cached", "cached"]
    (numbers.folder / "outside.txt").write_text("as it is")
    changed = numbers.run("c")
    assert states(changed) == ["complete", "cached"]
    assert "steps:outside changed; code, versions, parameters equal" in numbers.message(changed["make"])


def test_a_run_and_a_node_can_do_without(numbers):
    numbers.run("a")
    without = numbers.run("b", use_cache=False)
    assert states(without) == ["complete", "complete"]
    assert numbers.message(without["make"]) == "not asked: this run was started without it"
    numbers.options = "task(doubled, cache=False)"
    assert states(numbers.run("c")) == ["cached", "complete"]


def test_a_node_that_is_cleared_runs(numbers):
    numbers.run("a")
    cleared = numbers.run("a")
    assert states(cleared) == ["complete", "complete"]
    assert "asked to run again" in numbers.message(cleared["make"])


def test_a_result_that_is_too_old_counts_no_longer(numbers, monkeypatch):
    numbers.options = "task(made, cache_days=7); task(doubled, cache_days=10)"
    numbers.run("a")
    now = cache._now_ms()
    monkeypatch.setattr(cache, "_now_ms", lambda: now + 8 * 86_400_000)
    later = numbers.run("b")
    assert states(later) == ["complete", "cached"]
    assert numbers.message(later["make"]) == "missed: the equal result is 8.0 days old, and counts for 7"


def test_outputs_that_were_removed_are_made_again(numbers):
    first = numbers.run("a")
    (uri(first["make"], "number") / "number").unlink()
    uri(first["make"], "number").rmdir()
    again = numbers.run("b")
    assert states(again) == ["complete", "cached"]
    assert f"the outputs of execution {first['make'].execution}, which is equal, are gone" in numbers.message(
        again["make"]
    )


@pytest.mark.parametrize("text", ["2", ""], ids=["changed", "truncated"])
def test_an_output_that_was_changed_on_disk_is_made_again(numbers, text):
    first = numbers.run("a")
    (uri(first["make"], "number") / "number").write_text(text)
    again = numbers.run("b")
    assert states(again) == ["complete", "cached"]
    assert numbers.message(again["make"]) == (
        f"missed: the output number of execution {first['make'].execution}, which is equal, "
        "was changed after it was made"
    )
    assert (uri(again["make"], "number") / "number").read_text() == "1"
    assert "those of execution" in numbers.message(numbers.run("c")["make"])


def test_what_a_node_made_is_read_once_when_it_is_published(numbers, monkeypatch):
    read = []
    digest_of_tree = content_digest.digest_of_tree
    monkeypatch.setattr(content_digest, "digest_of_tree", lambda path: read.append(path) or digest_of_tree(path))
    first = numbers.run("a")
    assert states(numbers.run("b")) == ["cached", "cached"]
    assert read == [uri(first["make"], "number"), uri(first["double"], "doubled")]


def test_a_file_that_was_touched_and_not_changed_hits_and_is_read_once_more(numbers, monkeypatch):
    first = numbers.run("a")
    for outcome, key in (("make", "number"), ("double", "doubled")):
        os.utime(uri(first[outcome], key) / "number", ns=(0, 0))
    monkeypatch.setattr(content_digest, "SETTLED_NS", 0)
    assert states(numbers.run("b")) == ["cached", "cached"]
    monkeypatch.setattr(content_digest, "digest_of_tree", lambda path: "was read again")
    assert states(numbers.run("c")) == ["cached", "cached"]
    os.utime(uri(first["make"], "number") / "number", ns=(1, 1))
    assert "was changed" in numbers.message(numbers.run("d")["make"])


@pytest.mark.parametrize("home", ["sqlite", "postgresql"], indirect=True)
def test_with_the_newest_of_two_equal_results_gone_the_older_is_handed_out_by_its_name(numbers):
    older, newer = numbers.run("a"), numbers.run("b", use_cache=False)
    shutil.rmtree(uri(newer["make"], "number"))
    again = numbers.run("c")
    assert uri(again["make"], "number") == uri(older["make"], "number")
    assert numbers.message(again["make"]) == (
        "hit: code, versions, parameters and inputs equal those of "
        f"execution {older['make'].execution} in the run a; "
        f"the outputs of execution {newer['make'].execution}, which is equal, are gone"
    )


@pytest.mark.parametrize("option", ["enable_cache=True", "enable_cache=False", ""])
def test_the_log_says_once_for_each_node_what_the_cache_did(numbers, caplog, option):
    caplog.set_level("INFO")
    numbers.arguments = option
    numbers.run("a")
    expected = "missed: this node has no earlier result" if "True" in option else "was not asked: the pipeline does not"
    assert caplog.text.count("The cache ") == 2
    assert caplog.text.count(f"The cache {expected}") == 2


def test_a_hit_and_a_miss_cost_the_same_however_many_results_there_are(numbers, monkeypatch):
    monkeypatch.setattr(content_digest, "SETTLED_NS", 10**20)  # No note comes in between.
    numbers.run("a")
    few = count_calls(numbers, monkeypatch, "b"), count_calls(numbers, monkeypatch, "c", start=5)
    with metadata_store.project_connection(numbers.home) as handle:
        store = handle.store
        for known in store.get_executions():
            contexts = [c for c in store.get_contexts_by_execution(known.id) if c.type in ("execution_cache", "node")]
            events = store.get_events_by_execution_ids([known.id])
            artifacts = {a.id: a for a in store.get_artifacts_by_id([e.artifact_id for e in events])}
            for state in (State.COMPLETE, State.CACHED, State.FAILED) * 20:
                pairs = []
                for event in events:
                    copy = metadata_store_pb2.Event(type=event.type, path=event.path)
                    pairs.append((artifacts[event.artifact_id], copy))
                store.put_execution(State(type_id=known.type_id, last_known_state=state), pairs, contexts)
    assert count_calls(numbers, monkeypatch, "d") == few[0]
    assert count_calls(numbers, monkeypatch, "e", start=7) <= few[1] + 2 * cache._CANDIDATES


def count_calls(numbers: Numbers, monkeypatch: pytest.MonkeyPatch, run: str, **values: int) -> int:
    """Counts what the cache asks the store in a run."""
    calls: list[str] = []
    ask = mlmd.MetadataStore._call

    def count(self: mlmd.MetadataStore, name: str, *arguments: object) -> object:
        if any(frame.filename == cache.__file__ for frame in traceback.extract_stack()):
            calls.append(name)
        return ask(self, name, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(mlmd.MetadataStore, "_call", count)
        states(numbers.run(run, **values))
    return len(calls)


IMPORTED = """
from pathlib import Path
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts


@component
def read(model: InputArtifact[standard_artifacts.Model], copied: OutputArtifact[standard_artifacts.Model]) -> None:
    Path(copied.uri, "copied").write_text("copied")


def create_pipeline() -> Pipeline:
    imported = Importer(source_uri={uri}, artifact_type=standard_artifacts.Model).with_id("import")
    copied = read(model=imported.outputs["result"]).with_id("read")
    return Pipeline(pipeline_name="imported", components=[imported, copied], enable_cache=True)
"""


@pytest.mark.parametrize("form", ["{folder}", "file://{folder}", "data", "{folder}/text", "ram://bucket{folder}"])
def test_data_that_is_replaced_behind_an_importer_is_seen_whatever_form_its_uri_has(home, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = form.format(folder=tmp_path / "data")
    module = f"imported_{abs(hash(form))}"
    (tmp_path / f"{module}.py").write_text(IMPORTED.replace("{uri}", repr(source)))
    folder = source if source.startswith("ram:") else str(tmp_path / "data")

    def put(text: str) -> None:
        fileio.makedirs(folder)
        with fileio.open(f"{folder}/text", "w") as file:
            file.write(text)

    def run(name: str) -> tuple[str, str]:
        started = Run(home, f"{module}:create_pipeline", name)
        started.values = {}
        assert started.node("import").state in ("complete", "cached")
        outcome = started.node("read")
        return outcome.state, message_of(home, outcome)

    put("one")
    assert run("a")[0] == "complete"
    assert run("b")[0] == "cached"
    put("two")
    state, message = run("c")
    assert (state, "input model changed" in message) == ("complete", True)
    assert run("d")[0] == "cached"


def test_an_input_that_cannot_be_read_is_never_equal(home, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "imported_nowhere.py").write_text(IMPORTED.replace("{uri}", "'/proc/self/mem'"))
    for name in "ab":
        started = Run(home, "imported_nowhere:create_pipeline", name)
        started.values = {}
        assert started.node("import").state in ("complete", "cached")
        outcome = started.node("read")
        assert outcome.state == "complete"
    assert "missed: input model cannot be read; code, versions equal" in message_of(home, outcome)


def test_a_bool_arrives_as_one_and_tells_runs_apart(numbers):
    numbers.run("a")
    twice = numbers.run("b", twice=True)
    assert states(twice) == ["cached", "complete"]
    assert (uri(twice["double"], "doubled") / "number").read_text() == "4"
    assert "parameter twice was 0, is 1" in numbers.message(twice["double"])
    assert [p.type for p in current(f"{numbers.name}.pipeline:create_pipeline", numbers.home).parameters] == [
        "int",
        "bool",
    ]
