"""What create_pipeline reads makes a compiled pipeline stale; what libraries read does not."""

import json
import os
import py_compile
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from airtight import fingerprint
from airtight.errors import TerminalError, TransientError
from runtime import compiled_pipeline, fresh_pipelines, worker
from runtime.compile import compile_pipeline
from runtime.compile_inputs import OF_THE_PROCESS
from runtime.compiled_pipeline import CompiledPipeline
from runtime.compiled_store import current, path_of, usable
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
    foreign = (*fingerprint._foreign(), f"{library.resolve()}{os.sep}")
    monkeypatch.setattr(fingerprint, "_foreign", lambda: foreign)
    compiled = pipeline("import libby\nlibby.home()\ntext = libby.read('mine.txt')", home)
    sys.modules.pop("libby")
    assert set(compiled.environment) == {"READ_AT_IMPORT"}
    assert str(pipeline.folder / "mine.txt") in compiled.sources
    assert not [name for name in compiled.sources if name.endswith(("ours.txt", "libby.py"))]


def test_a_file_that_was_not_there_counts_when_it_is(home, pipeline):
    settings = pipeline.folder / "settings.json"
    compiled = pipeline("try: text = open('settings.json').read()\nexcept FileNotFoundError: text = 'none'", home)
    assert compiled.stale() == ""
    settings.write_text("1")
    assert compiled.stale() == f"{settings} was not there"


@pytest.mark.parametrize(
    "body",
    [
        "text = sorted(os.listdir('parts'))",
        "text = sorted(path.name for path in Path('parts').iterdir())",
        "import glob\ntext = sorted(glob.glob('parts/*.csv'))",
        "text = [*os.walk('.')]",
    ],
)
def test_a_folder_that_is_listed_makes_it_stale_when_a_name_comes_or_goes(home, pipeline, body):
    parts = pipeline.folder / "parts"
    parts.mkdir()
    (parts / "one.csv").write_text("1")
    compiled = pipeline(body, home)
    assert compiled.stale() == ""
    (parts / "one.csv").write_text("2")
    assert compiled.stale() == "", "its contents were not read"
    (parts / "two.csv").write_text("2")
    assert compiled.stale() == f"{parts} changed"


def test_a_temporary_folder_counts_neither_for_its_files_nor_for_its_names(home, pipeline):
    body = (
        "import tempfile\nwith tempfile.TemporaryDirectory() as folder:\n"
        "    Path(folder, 'a').write_text('x')\n    text = Path(folder, 'a').read_text() + str(os.listdir(folder))"
    )
    compiled = pipeline(body, home)
    assert compiled.stale() == ""
    assert {Path(name).suffix for name in compiled.sources} == {".py"}


def test_a_large_file_is_told_apart_by_size_and_time_code_included(home, pipeline, monkeypatch):
    monkeypatch.setattr(compiled_pipeline, "_LARGE", 8)
    settings = pipeline.folder / "settings.json"
    settings.write_text("0123456789")
    compiled = pipeline("text = Path('settings.json').read_text()", home)
    assert compiled.sources[str(settings)].startswith("10 bytes at ")
    assert compiled.stale() == ""
    os.utime(settings, (1, 1))
    assert compiled.stale() == f"{settings} changed"


def test_a_variable_that_is_no_text_counts_too(home, pipeline, monkeypatch):
    monkeypatch.setitem(os.environb, b"READ_N", b"\xff")
    compiled = pipeline("text = len(os.environ['READ_N'])", home)
    assert compiled.stale() == ""
    monkeypatch.setitem(os.environb, b"READ_N", b"\xfe")
    assert compiled.stale() == "the environment variable READ_N changed"


def test_only_its_owner_reads_what_could_be_guessed_from_digests(home, pipeline):
    pipeline("text = os.environ.get('READ_N', 'none')", home)
    assert stat.S_IMODE(path_of(pipeline.source, home).stat().st_mode) == 0o600


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
    assert text_in(compiled) == "theirs"
    assert "READ_N" not in os.environ
    assert "READ_N changed" in compiled.stale()
    monkeypatch.setenv("READ_N", "theirs")
    assert compiled.stale() == ""


def text_in(compiled: CompiledPipeline) -> str:
    """The value of the node's only parameter."""
    (parameter,) = compiled.ir["nodes"][0]["pipeline_node"]["parameters"]["parameters"].values()
    return str(parameter["field_value"]["string_value"])


def test_two_askers_with_two_environments_get_what_is_theirs_and_compile_it_once(home, pipeline, monkeypatch):
    pipeline("text = os.environ.get('READ_N', 'none')", home)

    def compile_for_both(request, _launcher):
        outcome = worker.do(request)
        worker.do(replace(request, environment={**request.environment, "READ_N": "theirs"}))
        return outcome

    monkeypatch.setattr(fresh_pipelines, "call", compile_for_both)
    monkeypatch.setenv("READ_N", "mine")
    assert text_in(fresh_pipelines.fresh(pipeline.source, home)) == "mine"
    assert text_in(current(pipeline.source, home)) == "theirs"
    monkeypatch.setattr(fresh_pipelines, "call", lambda *_: pytest.fail("compiled"))
    for value in ("mine", "theirs", "mine"):
        monkeypatch.setenv("READ_N", value)
        assert text_in(fresh_pipelines.fresh(pipeline.source, home)) == value


def test_what_stays_different_where_it_is_compiled_is_an_error_that_names_it(home, pipeline, monkeypatch):
    pipeline("text = os.environ.get('READ_N', 'none')", home)
    changed = {"READ_N": "theirs"}
    do = worker.do
    monkeypatch.setattr(
        fresh_pipelines, "call", lambda request, _: do(replace(request, environment={**request.environment, **changed}))
    )
    monkeypatch.setenv("READ_N", "mine")
    with pytest.raises(TransientError, match="the environment variable READ_N changed"):
        fresh_pipelines.fresh(pipeline.source, home)


@pytest.mark.parametrize("name", sorted(OF_THE_PROCESS))
def test_a_variable_of_the_process_that_compiles_is_no_part_of_the_pipeline(home, pipeline, monkeypatch, name):
    theirs = {variable: value for variable, value in os.environ.items() if variable != name}
    monkeypatch.setenv(name, str(home.path))
    pipeline(f"text = os.environ.setdefault({name!r}, '3')", home)
    sys.modules.pop(pipeline.source.partition(":")[0])
    request = CompileRequest(pipeline.source, str(home.path), {}, theirs)
    assert worker.do(request).state == "complete"
    monkeypatch.delenv(name)
    assert usable(pipeline.source, home) is not None


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
        assert text_in(compiled) == value
        assert current(pipeline.source, home, {"n": int(value) // 2, "name": "p"}).digest == compiled.digest
    with pytest.raises(TerminalError, match="unexpected keyword argument 'm'") as caught:
        pipeline(body, home, arguments={"m": 1})
    assert "(n: int = 1, name: str = 'inputs')" in caught.value.expected
    with pytest.raises(TerminalError, match="cannot be compiled with these arguments"):
        pipeline(body, home, arguments={"n": Path("x")})


def test_a_digest_names_the_file_it_is_in_and_is_computed_once(home, pipeline, monkeypatch):
    compiled = pipeline("pass", home)
    path = path_of(pipeline.source, home)
    assert path.stem == replace(compiled).digest, "of one that was not read from a file"
    monkeypatch.setattr(CompiledPipeline, "_text", lambda _: pytest.fail("written again"))
    assert path.stem == CompiledPipeline.read(path).digest
    assert path.parent.name.startswith(pipeline.source.replace(":", "."))
