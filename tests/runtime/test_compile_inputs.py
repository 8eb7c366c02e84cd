"""What create_pipeline reads makes a compiled pipeline stale; what libraries read does not."""

import json
import os
import py_compile
import sys
from pathlib import Path

import pytest

from airtight import fingerprint
from airtight.errors import TerminalError
from runtime import worker
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from runtime.compiled_store import current, path_of
from runtime.protocol import CompileRequest

PIPELINE = """
import json, os
from pathlib import Path
from tfx.dsl.component.experimental.annotations import Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import Pipeline

AT_IMPORT = os.environ.get("READ_AT_IMPORT", "")

@component
def make(text: Parameter[str]) -> None:
    '''Makes.'''

def create_pipeline(n: int = 1, name: str = "inputs"):
    text = ""
    {body}
    return Pipeline(name, components=[make(text=str(text)).with_id("make")])
"""


@pytest.fixture
def pipeline(tmp_path, monkeypatch, request):
    """Compiles a pipeline whose function has that body."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    name = f"inputs_{abs(hash(request.node.name))}"

    def compiled(body: str, home, **options) -> CompiledPipeline:
        lines = body.replace("\n", "\n    ")
        (folder / f"{name}.py").write_text(PIPELINE.replace("{body}", lines))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return CompiledPipeline.read(compile_pipeline(f"{name}:create_pipeline", home, **options))

    compiled.folder, compiled.source = folder, f"{name}:create_pipeline"
    yield compiled
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "body",
    [
        "text = Path(__file__).with_name('settings.json').read_text()",
        "with open('settings.json') as file: text = json.load(file)['n']",
        "import pandas\ntext = len(pandas.read_csv('settings.json'))",
        "text = os.read(os.open('settings.json', os.O_RDONLY), 9)",
    ],
)
def test_a_file_that_is_read_makes_it_stale_by_name(home, pipeline, body):
    settings = pipeline.folder / "settings.json"
    settings.write_text(json.dumps({"n": 5}))
    compiled = pipeline(body, home)
    assert compiled.stale() == ""
    settings.write_text(json.dumps({"n": 6}))
    assert compiled.stale() == f"{settings} changed"


def test_code_that_is_loaded_by_its_place_counts_from_its_byte_code_too(home, pipeline):
    (pipeline.folder / "apart").mkdir()
    apart = pipeline.folder / "apart" / "values.py"
    apart.write_text("N = 5\n")
    body = (
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location('values', Path(__file__).with_name('apart') / 'values.py')\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\ntext = module.N"
    )
    assert str(apart) in pipeline(body, home).sources
    py_compile.compile(str(apart))
    compiled = pipeline(body, home)
    apart.write_text("N = 6\n")
    assert compiled.stale() == f"{apart} changed"


@pytest.mark.parametrize(
    "body",
    [
        "text = os.environ['READ_N']",
        "text = os.getenv('READ_N')",
        "text = os.path.expandvars('$READ_N/x')",
        "text = 'READ_N' in os.environ",
        "text = os.environ.setdefault('READ_N', 'mine')",
    ],
)
def test_a_variable_that_is_read_makes_it_stale_and_its_value_is_kept_nowhere(home, pipeline, monkeypatch, body):
    monkeypatch.setenv("READ_N", "a-secret")
    compiled = pipeline(body, home)
    assert set(compiled.environment) == {"READ_N", "READ_AT_IMPORT"}
    assert compiled.stale() == ""
    monkeypatch.setenv("READ_N", "another")
    assert compiled.stale() == "the environment variable READ_N changed"
    monkeypatch.delenv("READ_N")
    assert compiled.stale() == "the environment variable READ_N changed"
    kept = json.dumps({**vars(compiled), "nodes": [], "parameters": [], "ir": {}})
    assert "a-secret" not in kept


def test_a_variable_that_was_not_set_counts_when_it_is(home, pipeline, monkeypatch):
    compiled = pipeline("text = os.environ.get('READ_N', '5')", home)
    assert compiled.stale() == ""
    monkeypatch.setenv("READ_AT_IMPORT", "1")
    assert "READ_AT_IMPORT changed" in compiled.stale()


def test_a_walk_over_the_whole_environment_asks_for_no_variable(home, pipeline):
    body = "text = len(dict(os.environ)) + len(os.environ | {}) + len(os.environ.copy()) + len([*os.environ.items()])"
    assert set(pipeline(body, home).environment) == {"READ_AT_IMPORT"}


def test_what_a_library_reads_for_itself_does_not_count(home, pipeline, tmp_path, monkeypatch):
    library = tmp_path / "library"
    library.mkdir()
    (library / "libby.py").write_text(
        "import os\nos.environ.get('LIBBY_AT_IMPORT')\nopen(os.path.dirname(__file__) + '/../ours.txt').read()\n"
        "def home(): return os.environ.get('LIBBY_WHEN_CALLED')\ndef read(path): return open(path).read()\n"
    )
    (tmp_path / "ours.txt").write_text("read at the library's import")
    (pipeline.folder / "mine.txt").write_text("read for the pipeline")
    monkeypatch.syspath_prepend(library)
    foreign = fingerprint._foreign() | {library.resolve()}
    monkeypatch.setattr(fingerprint, "_foreign", lambda: foreign)
    compiled = pipeline("import libby\nlibby.home()\ntext = libby.read('mine.txt')", home)
    sys.modules.pop("libby")
    assert set(compiled.environment) == {"READ_AT_IMPORT"}
    assert str(pipeline.folder / "mine.txt") in compiled.sources
    assert not [name for name in compiled.sources if name.endswith(("ours.txt", "libby.py"))]


def test_a_file_that_changes_while_it_is_compiled_leaves_it_stale(home, pipeline):
    (pipeline.folder / "settings.json").write_text("1")
    read = "text = Path('settings.json').read_text()"
    later = f"import subprocess\nsubprocess.run(['sh', '-c', 'echo 2 > {pipeline.folder}/settings.json'])"
    assert pipeline(f"{read}\n{later}", home).stale() == f"{pipeline.folder}/settings.json changed"


def test_data_of_the_state_folder_and_what_is_written_do_not_count(home, pipeline):
    home.path.mkdir()
    (home.path / "state.json").write_text("1")
    body = (
        "Path('made.txt').write_text('x')\n"
        f"text = Path('made.txt').read_text() + Path({str(home.path)!r}, 'state.json').read_text()"
    )
    assert not [name for name in pipeline(body, home).sources if name.endswith((".txt", ".json"))]


def test_the_environment_that_counts_is_the_askers(home, pipeline, monkeypatch):
    pipeline("text = os.environ.get('READ_N', 'none')", home)
    sys.modules.pop(pipeline.source.partition(":")[0])
    monkeypatch.delenv("READ_N", raising=False)
    theirs = dict(os.environ) | {"READ_N": "theirs"}
    request = CompileRequest(pipeline.source, str(home.path), {}, theirs)
    assert "theirs" not in repr(request)
    assert worker.do(request).state == "complete"
    compiled = current(pipeline.source, home)
    (parameter,) = compiled.ir["nodes"][0]["pipeline_node"]["parameters"]["parameters"].values()
    assert parameter["field_value"]["string_value"] == "theirs"
    assert "READ_N" not in os.environ
    assert "READ_N changed" in compiled.stale()
    monkeypatch.setenv("READ_N", "theirs")
    assert compiled.stale() == ""


def test_what_was_compiled_before_is_taken_again_when_all_is_as_it_was(home, pipeline, monkeypatch):
    """Two askers with two environments compile once each, not at every turn."""
    body = "text = os.environ.get('READ_N', 'none')"
    pipeline(body, home)
    first = path_of(pipeline.source, home)
    monkeypatch.setenv("READ_N", "2")
    pipeline(body, home)
    assert path_of(pipeline.source, home) != first
    monkeypatch.delenv("READ_N")
    monkeypatch.setattr("runtime.compile._of_code", lambda *_: pytest.fail("compiled"))
    compile_pipeline(pipeline.source, home, only_if_stale=True)
    assert path_of(pipeline.source, home) == first


def test_arguments_are_given_to_the_function_and_are_a_part_of_what_is_compiled(home, pipeline):
    body = "text = n * 2"
    two, three = (pipeline(body, home, arguments={"n": n, "name": "p"}) for n in (2, 3))
    for compiled, value in ((two, "4"), (three, "6")):
        (parameter,) = compiled.ir["nodes"][0]["pipeline_node"]["parameters"]["parameters"].values()
        assert parameter["field_value"]["string_value"] == value
        assert current(pipeline.source, home, {"n": int(value) // 2, "name": "p"}).digest == compiled.digest
    with pytest.raises(TerminalError, match="unexpected keyword argument 'm'") as caught:
        pipeline(body, home, arguments={"m": 1})
    assert "create_pipeline(n: int = 1, name: str = 'inputs')" in caught.value.expected
    with pytest.raises(TerminalError, match="cannot be compiled with these arguments"):
        pipeline(body, home, arguments={"n": Path("x")})


def test_a_digest_names_the_file_it_is_in(home, pipeline):
    compiled = pipeline("pass", home)
    path = path_of(pipeline.source, home)
    assert path.stem == compiled.digest
    assert path.parent.name.startswith(pipeline.source.replace(":", "."))
