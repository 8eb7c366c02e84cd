"""What is compiled, what is refused, and when it is compiled again."""

import json
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from google.protobuf import json_format, text_format
from tfx.proto.orchestration import pipeline_pb2

from airtight.errors import TerminalError
from airtight.home import ROOT
from runtime import compile as compile_module
from runtime import compiled_pipeline
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from runtime.compiled_store import path_of
from tests.tiny_pipeline.running import TINY, Run

MODULE = """
'''Made for a test.'''
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.orchestration.pipeline import ExecutionMode, Pipeline
from tfx.types import standard_artifacts

@component
def make(made: OutputArtifact[standard_artifacts.Model]) -> None:
    '''Makes.'''

@component
def use(made: InputArtifact[standard_artifacts.Model]) -> None:
    '''Uses.'''

@component
def end() -> None:
    '''Ends.'''

def create_pipeline():
    {body}
"""
COMPILERS = [f"runtime/{name}.py" for name in ("compile", "compile_checks", "compile_inputs", "compile_places")]
OPTIONS = """
from tfx.dsl.experimental.node_execution_options.utils import NodeExecutionOptions, TriggerStrategy
END = TriggerStrategy.LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS
COMPLETED = TriggerStrategy.ALL_UPSTREAM_NODES_COMPLETED
first, last = make().with_id('make'), end().with_id('end')
second = use(made=first.outputs['made']).with_id('use')
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a module with a pipeline and gives the name under which it is compiled."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(body: str, name: str = "written_pipeline") -> str:
        (tmp_path / f"{name}.py").write_text(MODULE.format(body=textwrap.indent(body, "    ").lstrip()))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return f"{name}:create_pipeline"

    return write


def test_a_compiled_pipeline_tells_airflow_all_it_needs(home):
    compiled = CompiledPipeline.read(Run(home).compiled)
    assert [(node.id, node.upstream) for node in compiled.nodes] == [
        ("write", ()),
        ("copy", ("write",)),
        ("count", ("copy",)),
    ]
    assert compiled.node("write").outputs == {"words": "Words"}
    assert compiled.node("write").doc == "Writes the text, as often as asked."
    assert compiled.doc.startswith("# Words")
    assert compiled.zone == "America/New_York"
    assert [parameter.name for parameter in compiled.parameters] == ["text", "repeat", "trouble"]
    assert compiled.interval
    assert "tests/tiny_pipeline/steps.py" in compiled.sources
    assert set(COMPILERS) <= set(compiled.sources)
    assert not [name for name in compiled.sources if "site-packages" in name]


def test_compiling_twice_gives_the_same_bytes(home):
    first = Run(home).compiled.read_bytes()
    assert Run(home).compiled.read_bytes() == first


def test_a_changed_source_makes_the_compiled_pipeline_stale(home, written, tmp_path):
    source = written("return Pipeline('p', components=[make().with_id('make')])")
    compiled = CompiledPipeline.read(compile_pipeline(source, home))
    assert compiled.stale() == ""
    (tmp_path / "written_pipeline.py").write_text("changed")
    assert "written_pipeline.py changed" in compiled.stale()
    (tmp_path / "written_pipeline.py").unlink()
    assert "is gone" in compiled.stale()


def test_an_ir_file_of_somebody_else_compiles(home, tmp_path):
    ir = json_format.ParseDict(CompiledPipeline.read(Run(home).compiled).ir, pipeline_pb2.Pipeline())
    (tmp_path / "ir.pbtxt").write_text(text_format.MessageToString(ir))
    compiled = CompiledPipeline.read(compile_pipeline(str(tmp_path / "ir.pbtxt"), home))
    assert [node.id for node in compiled.nodes] == ["write", "copy", "count"]
    assert {parameter.name: parameter.default for parameter in compiled.parameters} == {
        "text": "word",
        "repeat": 3,
        "trouble": "none",
    }
    assert set(COMPILERS) <= set(compiled.sources)
    assert compiled.stale() == ""


def test_an_ir_file_of_any_size_is_compiled_once(home, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled_pipeline, "_LARGE", 100)
    (tmp_path / "ir.json").write_text(json.dumps(CompiledPipeline.read(Run(home).compiled).ir))
    assert CompiledPipeline.read(compile_pipeline(str(tmp_path / "ir.json"), home)).stale() == ""


def test_a_change_of_how_pipelines_are_compiled_makes_them_stale(home):
    compiled = CompiledPipeline.read(Run(home).compiled)
    for name in COMPILERS:
        assert replace(compiled, sources=compiled.sources | {name: "before"}).stale() == f"{name} changed"


@pytest.mark.parametrize(
    ("body", "node", "reason"),
    [
        (
            "return Pipeline('p', components=[make()], execution_mode=ExecutionMode.ASYNC)",
            "the pipeline",
            "asynchronous",
        ),
        (
            "inner = Pipeline('inner', components=[make()])\nreturn Pipeline('p', components=[inner])",
            "the node inner",
            "a pipeline in a pipeline",
        ),
    ],
)
def test_what_cannot_run_is_refused_by_node_and_reason(home, written, body, node, reason):
    with pytest.raises(TerminalError) as caught:
        compile_pipeline(written(body), home)
    assert node in caught.value.received
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("body", "node", "reason"),
    [
        ("first.node_execution_options = NodeExecutionOptions(success_optional=True)", "make", "success is optional"),
        (
            "last.add_upstream_node(second)\nlast.node_execution_options = NodeExecutionOptions(lifetime_start='make')",
            "end",
            "another trigger strategy",
        ),
        (
            "last.node_execution_options = NodeExecutionOptions(trigger_strategy=END, lifetime_start='make')",
            "end",
            "does not come after it",
        ),
        (
            "other = end().with_id('other')\n"
            "other.add_upstream_node(first)\n"
            "other.node_execution_options = NodeExecutionOptions(trigger_strategy=COMPLETED)\n"
            "last.add_upstream_nodes([second, other])\n"
            "last.node_execution_options = NodeExecutionOptions(trigger_strategy=END, lifetime_start='make')\n"
            "return Pipeline('p', components=[first, second, other, last])",
            "other",
            "whose resource it uses",
        ),
    ],
)
def test_options_that_no_dag_run_can_follow_are_refused_by_node_and_reason(home, written, body, node, reason):
    consumer = "second = end().with_id('use')\n" if "success_optional" in body else ""
    source = written(f"{OPTIONS}{consumer}{body}\nreturn Pipeline('p', components=[first, second, last])")
    with pytest.raises(TerminalError) as caught:
        compile_pipeline(source, home)
    assert caught.value.received == f"the node {node}"
    assert reason in caught.value.message
    assert "list" not in caught.value.remedy


def test_what_a_node_ends_is_in_the_compiled_pipeline(home, written):
    body = (
        "last.add_upstream_node(second)\n"
        "last.node_execution_options = NodeExecutionOptions(\n"
        "    trigger_strategy=END, lifetime_start='make', max_execution_retries=2, execution_timeout_sec=30)\n"
        "return Pipeline('p', components=[first, second, last])"
    )
    node = CompiledPipeline.read(compile_pipeline(written(OPTIONS + body), home)).node("end")
    assert (node.ends, node.trigger) == ("make", "LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS")
    assert (node.retries, node.timeout_s, node.upstream) == (2, 30, ("use",))


@pytest.mark.parametrize(
    ("body", "received"),
    [("raise ValueError('no such thing')", "ValueError: no such thing"), ("return 3", "not a TFX Pipeline")],
)
def test_a_pipeline_that_does_not_compile_is_named_with_the_cause(home, written, body, received):
    source = written(body)
    with pytest.raises(TerminalError) as caught:
        compile_pipeline(source, home)
    assert source in caught.value.message
    assert received in caught.value.received
    assert not path_of(source, home).exists()


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (
            "from tfx.components import CsvExampleGen\nfrom tfx.orchestration.data_types import RuntimeParameter\n"
            "from tfx.proto import example_gen_pb2\n"
            "split = example_gen_pb2.Input.Split(name='all', pattern=str(RuntimeParameter('pattern', str)))\n"
            "gen = CsvExampleGen('/srv', input_config=example_gen_pb2.Input(splits=[split]))\n"
            "return Pipeline('p', components=[gen])",
            "input_config",
        ),
        (
            "from tfx.components import Trainer\nfrom tfx.orchestration.data_types import RuntimeParameter\n"
            "from tfx.proto import trainer_pb2\nfrom tfx.types import channel\n"
            "examples = channel.Channel(type=standard_artifacts.Examples)\n"
            "trainer = Trainer(examples=examples, run_fn='m.run', train_args=trainer_pb2.TrainArgs(num_steps=1),\n"
            "  eval_args=trainer_pb2.EvalArgs(), custom_config={'rate': RuntimeParameter('rate', float, 0.1)})\n"
            "return Pipeline('p', components=[trainer])",
            "custom_config",
        ),
    ],
)
def test_a_parameter_inside_a_larger_value_is_refused_by_node_and_property(home, written, body, name):
    with pytest.raises(TerminalError, match=rf"its property {name} holds a RuntimeParameter") as caught:
        compile_pipeline(written(body), home)
    assert "arguments={...}" in caught.value.remedy


def test_ids_that_airflow_refuses_get_a_task_id_of_their_own(home, written):
    ids = ("my make", "my:make", "my_make", "Trainer.mnist")
    body = f"return Pipeline('my own', components=[make().with_id(n) for n in {ids!r}])"
    compiled = CompiledPipeline.read(compile_pipeline(written(body), home))
    assert {node.id: node.task for node in compiled.nodes} == {
        "my make": "my_make_2",
        "my:make": "my_make_3",
        "my_make": "my_make",
        "Trainer.mnist": "Trainer.mnist",
    }


def test_a_misspelt_zone_does_not_compile(home, written, tmp_path):
    source = written("return Pipeline('p', components=[make()])")
    file = tmp_path / "written_pipeline.py"
    file.write_text(file.read_text() + "ZONE = 'Europe/Berln'\n")
    with pytest.raises(TerminalError, match="did you mean 'Europe/Berlin'"):
        compile_pipeline(source, home)


def test_several_at_once_compile_once(home, written, monkeypatch):
    source = written("return Pipeline('p', components=[make().with_id('make')])")
    compiling, begun = compile_module._of_code, []

    def slowly(*arguments):
        begun.append(source)
        time.sleep(0.5)  # Long enough for the others to wait for the lock.
        return compiling(*arguments)

    monkeypatch.setattr(compile_module, "_of_code", slowly)
    with ThreadPoolExecutor(3) as several:
        paths = {*several.map(lambda _: compile_pipeline(source, home, only_if_stale=True), range(3))}
    assert (len(begun), len(paths)) == (1, 1)


def test_what_a_local_run_compiles_is_not_what_dags_use(home, written):
    source = written("return Pipeline('p', components=[make().with_id('make')])")
    published = compile_pipeline(source, home)
    source = written("return Pipeline('p', components=[make().with_id('other')])")
    kept = compile_pipeline(source, home, make_current=False)
    assert kept != published
    assert path_of(source, home) == published
    assert published.exists()


def test_a_pipeline_that_is_not_there_is_named(home):
    with pytest.raises(TerminalError, match="no_such_pipeline"):
        compile_pipeline("no_such_pipeline", home)


def test_declared_and_used_parameters_must_agree(home, monkeypatch):
    from tests.tiny_pipeline import pipeline

    monkeypatch.setattr(pipeline, "PARAMETERS", pipeline.PARAMETERS[:2])
    with pytest.raises(TerminalError, match="other parameters than it uses") as caught:
        compile_pipeline(TINY, home)
    assert "trouble (str)" in caught.value.expected


def test_a_compiled_pipeline_of_another_format_is_told_apart(home):
    path = Run(home).compiled
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))
    with pytest.raises(TerminalError, match="cannot be read"):
        CompiledPipeline.read(path)


def test_sources_are_named_relative_to_the_checkout(home):
    for name in CompiledPipeline.read(Run(home).compiled).sources:
        if not name.startswith("/"):
            assert (ROOT / name).is_file()


@pytest.mark.parametrize("options", ["image='an/image', cold=True", "interpreter='/python', image='an/image'"])
def test_a_node_runs_in_one_place(home, written, options):
    body = f"from runtime.task_options import task\nreturn Pipeline('p', components=[task(make(), {options})])"
    with pytest.raises(TerminalError, match="cannot run in several places"):
        compile_pipeline(written(body), home)
