"""Places mean the same in every process, remote roots are refused, and empty outputs are no success."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from airtight.errors import TerminalError
from airtight.home import ROOT
from runtime import metadata_store
from runtime.client import Call
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from tests.tiny_pipeline.running import TINY, Run, fault, uri

PIPELINE = """
import os
from pathlib import Path
from tfx.components import CsvExampleGen
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration import metadata
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts
from components.artifacts import Dataset
from tests.tiny_pipeline.steps import Words
import {helper}

@component
def read(data: Parameter[str], made: OutputArtifact[standard_artifacts.Schema]) -> None:
    '''Reads.'''
    Path(made.uri, "made").write_text(Path(data, "rows.csv").read_text() + {helper}.TEXT)

@component
def leave(how: Parameter[str], model: OutputArtifact[standard_artifacts.Model], data: OutputArtifact[Dataset],
          words: OutputArtifact[Words], pushed: OutputArtifact[standard_artifacts.PushedModel]) -> None:
    '''Leaves.'''
    if how != "nothing":
        Path(model.uri, "weights").write_text("w")
    if how == "all":
        Path(data.uri, "deep").mkdir()
        Path(data.uri, "deep", "manifest.json").write_text("{}")
    if how == "gone":
        os.rmdir(data.uri)

def create_pipeline():
    {body}
"""
RELATIVE = """
reader = read(data="data").with_id("read")
    imported = Importer(source_uri="{uri}", artifact_type=standard_artifacts.Examples).with_id("imported")
    config = metadata.sqlite_metadata_connection_config("metadata/rel/metadata.db")
    generator = CsvExampleGen("data").with_id("generator")
    return Pipeline("rel", "pipelines/rel", config, components=[reader, imported, generator])
"""


@pytest.fixture
def source(tmp_path, monkeypatch, request):
    """Writes a pipeline beside its data, and gives its name."""
    folder, name = tmp_path / "code", f"places_{abs(hash(request.node.name))}"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "rows.csv").write_text(ROWS)
    (folder / f"{name}_helper.py").write_text("TEXT = 'helped'\n")
    monkeypatch.syspath_prepend(folder)

    def write(body: str) -> str:
        text = PIPELINE.replace("{body}", body.strip()).replace("{helper}", f"{name}_helper")
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return f"{name}:create_pipeline"

    write.folder = folder
    return write


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_relative_paths_begin_at_the_pipelines_file_and_nothing_is_written_beside_it(
    home, source, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = Run(home, source(RELATIVE.replace("{uri}", "data")))
    run.values = {}
    before = tree(source.folder)
    made = uri(run.node("read"), "made")
    assert (made / "made").read_text() == f"{ROWS}helped"
    assert made.is_relative_to(home.path / "pipelines" / "rel")
    assert (home.path / "metadata" / "rel" / "metadata.db").is_file()
    assert uri(run.node("imported"), "result") == source.folder / "data", "and so its contents are seen by the cache"
    assert Path.cwd() == tmp_path / "elsewhere"
    assert not tree(tmp_path / "elsewhere")
    assert tree(source.folder) == before == {"data", "data/rows.csv"} | {n for n in before if n.endswith(".py")}


def test_a_local_address_is_a_path(home, source):
    compiled = compile_pipeline(source(RELATIVE.replace("{uri}", f"file://{source.folder}/data")), home)
    ir = CompiledPipeline.read(compiled).ir
    (imported,) = [n for n in ir["nodes"] if n["pipeline_node"]["node_info"]["id"] == "imported"]
    value = imported["pipeline_node"]["parameters"]["parameters"]["artifact_uri"]["field_value"]["string_value"]
    assert value == f"{source.folder}/data"
    body = "return Pipeline('root', 'file:///srv/root', components=[read(data='/srv')])"
    ir = CompiledPipeline.read(compile_pipeline(source(body), home)).ir
    root = ir["runtime_spec"]["pipeline_root"]["runtime_parameter"]["default_value"]["string_value"]
    assert root == "/srv/root"


def test_what_is_there_when_it_is_compiled_does_not_decide_where_nodes_run(home, source):
    run = Run(home, source("return Pipeline('p', components=[read(data='later').with_id('read')])"))
    run.values = {}
    (source.folder / "data").rename(source.folder / "later")
    assert (uri(run.node("read"), "made") / "made").read_text() == f"{ROWS}helped"


def test_a_node_runs_where_the_pipelines_folder_is_not(home, tmp_path):
    """As in a container of an image without the DAG folder."""
    ir = json.dumps(CompiledPipeline.read(compile_pipeline(TINY, home)).ir)
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "ir.json").write_text(ir)
    run = Run(home, str(tmp_path / "dags" / "ir.json"))
    shutil.rmtree(tmp_path / "dags")
    assert run.node("write").state == "complete"


@pytest.mark.parametrize("root", ["s3://bucket/x", "gs://bucket", "hdfs://h/x", "ram://x"])
def test_a_remote_pipeline_root_is_refused_by_name(home, source, root):
    with pytest.raises(TerminalError, match="has a remote pipeline root") as caught:
        compile_pipeline(source(f"return Pipeline('far', {root!r}, components=[read(data='/srv')])"), home)
    assert caught.value.received == root
    assert "mounted folder" in caught.value.remedy


def test_a_pipeline_root_that_an_ir_file_holds_as_a_value_is_a_root_like_any_other(home, tmp_path):
    ir = CompiledPipeline.read(compile_pipeline(TINY, home)).ir
    file = tmp_path / "ir.json"

    def compiled(root: str) -> CompiledPipeline:
        ir["runtime_spec"]["pipeline_root"] = {"field_value": {"string_value": root}}
        file.write_text(json.dumps(ir))
        return CompiledPipeline.read(compile_pipeline(str(file), home))

    with pytest.raises(TerminalError, match="has a remote pipeline root"):
        compiled("s3://bucket/x")
    compiled(f"file://{tmp_path}/root")
    made = uri(Run(home, str(file)).node("write"), "words")
    assert made.is_relative_to(tmp_path / "root")


ROWS = "a,b\n" + "".join(f"{number},{number}\n" for number in range(50))
LEAVE = "return Pipeline('left', components=[leave(how=RuntimeParameter('how', str)).with_id('leave')])"


@pytest.mark.parametrize(
    ("how", "received"),
    [
        ("nothing", "data: an empty folder, model: an empty folder"),
        ("model", "data: an empty folder"),
        ("gone", "data: nothing there"),
    ],
)
def test_an_output_that_must_hold_something_and_does_not_fails_the_node(home, source, how, received):
    run = Run(home, source(LEAVE))
    run.values = {"how": how}
    outcome = run.node("leave")
    assert "left an output empty" in fault(outcome)["message"]
    assert fault(outcome)["received"] == received
    assert not fault(outcome)["transient"]
    with metadata_store.project_connection(home) as handle:
        (execution,) = handle.store.get_executions()
        assert execution.last_known_state == execution.FAILED
        assert handle.store.get_artifacts() == [], "they were never there for anybody to take"
    assert not list(home.pipeline_root("left").glob(f"leave/*/{execution.id}"))


def test_types_that_may_be_empty_may_be(home, source):
    run = Run(home, source(LEAVE))
    run.values = {"how": "all"}
    assert run.node("leave").state == "complete", "Words is nobody's type that is known, PushedModel may be empty"


@pytest.mark.slow
def test_a_process_that_was_started_elsewhere_finds_modules_and_data(home, source, monkeypatch):
    """As a task of Airflow's, whose own path does not have the folder of the pipeline."""
    run = Run(home, source(RELATIVE.replace("{uri}", "data")))
    run.values = {}
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(source.folder)])
    before = tree(source.folder), tree(ROOT / "tests" / "runtime")
    with Call(run.request("read"), None) as call:
        made = uri(call.outcome, "made")
    assert (made / "made").read_text() == f"{ROWS}helped"
    with Call(run.request("generator"), None) as call:
        assert list(uri(call.outcome, "examples").glob("Split-train/*"))
    assert (tree(source.folder), tree(ROOT / "tests" / "runtime")) == before
