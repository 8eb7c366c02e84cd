"""The pipelines that settings make: what replaces a node, what stands on the form, and what makes them stale."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tfx.orchestration.data_types import RuntimeParameter

from airtight.errors import TerminalError
from airtight.home import ROOT, Home
from airtight.supervised import LABELS, NODES, WATCH
from components.supervised import create_pipeline, supervised_pipeline
from runtime import local
from runtime.compile import compile_pipeline
from runtime.compiled_pipeline import CompiledPipeline
from runtime.parameters import declared
from tests.tiny_supervised import data
from tests.tiny_supervised.settings import REPLACED, SETTINGS, WATCHED

CODE = {"tables": ".data:TABLES", "schema": ".data:SCHEMA", "transform": ".data:transform"}


def nodes(pipeline):
    return {node.id: node for node in pipeline.components}


def test_the_short_form_gives_an_ordinary_pipeline_that_says_its_parameters():
    pipeline = supervised_pipeline("parts", package="tests.tiny_supervised", zone="Europe/Berlin", **CODE)
    assert pipeline.pipeline_info.pipeline_name == "parts"
    declaration = declared(pipeline)
    assert declaration.zone == "Europe/Berlin"
    assert {"epochs", "release"} <= {parameter.name for parameter in declaration.parameters}


@pytest.mark.parametrize("part", [*SETTINGS.parts, WATCH, LABELS])
def test_the_parts_have_the_nodes_that_settings_may_name(part):
    watched = replace(WATCHED, batch_predictions=True)
    assert set(nodes(create_pipeline(watched, part))) == set(NODES[part]) - {"skew"}
    if part in SETTINGS.parts:
        assert set(nodes(create_pipeline(SETTINGS, part))) == set(NODES[part]) - {"clear_training"}


def test_only_what_is_watched_has_its_training_cleared_before_examples_are_made():
    made = nodes(create_pipeline(WATCHED))
    assert made["clear_training"] in made["transform"].upstream_nodes
    assert "data_faults" in {parameter.name for parameter in declared(create_pipeline(WATCHED)).parameters}
    assert "data_faults" not in {parameter.name for parameter in declared(create_pipeline(SETTINGS)).parameters}


def test_the_source_of_a_watch_is_a_category_of_the_schema():
    watched = replace(WATCHED, watch=replace(WATCHED.watch, source="colour"))
    assert nodes(create_pipeline(watched, WATCH))["summarize"].exec_properties["source"] == "colour"
    for wrong in ("size", "shop"):
        watched = replace(WATCHED, watch=replace(WATCHED.watch, source=wrong))
        with pytest.raises(TerminalError, match=f"(?s)a category feature of .*: colour.*{wrong}"):
            create_pipeline(watched, WATCH)


def test_predictions_are_watched_for_drift_and_nothing_on_the_way_to_the_push_waits_for_it():
    made = nodes(create_pipeline(SETTINGS))
    assert made["monitor"].inputs["model"] is made["train"].outputs["model"]
    assert made["push"] in made["monitor"].upstream_nodes and not made["monitor"].downstream_nodes


def test_a_node_takes_constants_and_parameters_of_the_form():
    train = nodes(create_pipeline(SETTINGS))["train"]
    assert train.exec_properties["batch_size"] == 64
    learning_rate = train.exec_properties["learning_rate"]
    assert isinstance(learning_rate, RuntimeParameter) and learning_rate.default == 0.01


def test_a_replaced_node_stands_where_the_usual_one_did():
    pipeline = create_pipeline(REPLACED)
    train = nodes(pipeline)["train"]
    assert "grow" in type(train).__name__
    assert nodes(pipeline)["evaluate"].inputs["model"] is train.outputs["model"]
    names = {parameter.name for parameter in declared(pipeline).parameters}
    assert {"depth", "seed"} <= names and not {"epochs", "strategy", "refit", "release"} & names


def test_a_function_may_replace_a_node_too():
    from tests.tiny_supervised.replaced import grow

    pipeline = create_pipeline(replace(REPLACED, components={"train": grow}))
    assert "grow" in type(nodes(pipeline)["train"]).__name__


def test_only_what_has_releases_reads_promotions():
    assert "promotions" in nodes(create_pipeline(SETTINGS))["champion"].inputs
    assert "promotions" not in nodes(create_pipeline(REPLACED))["champion"].inputs


def test_a_part_that_is_left_out_is_refused():
    with pytest.raises(TerminalError, match="has no part 'release'"):
        create_pipeline(REPLACED, "release")


@pytest.mark.slow
def test_a_compiled_pipeline_is_stale_when_its_settings_change(tmp_path, monkeypatch):
    package = tmp_path / "code" / "parts_that_break"
    package.mkdir(parents=True)
    text = Path(ROOT / "tests/tiny_supervised/settings.py").read_text(encoding="utf-8")
    settings = package / "settings.py"
    settings.write_text(text)
    for name in ("data", "replaced"):
        shutil.copy(ROOT / f"tests/tiny_supervised/{name}.py", package)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    source = "parts_that_break.settings:SETTINGS"
    compiled = CompiledPipeline.read(compile_pipeline(source, Home.current(), arguments={"part": "promote"}))
    assert (compiled.pipeline, compiled.stale()) == ("toy_promote", "")
    assert str(settings) in compiled.sources
    settings.write_text(text.replace('"epochs": 2', '"epochs": 3'))
    assert compiled.stale() == f"{settings} changed"


@pytest.mark.slow
def test_a_pipeline_without_expectations_makes_examples(tmp_path):
    """The data steps in a run of its own, from a lake that its settings fill."""
    home = Home.current()
    data.fill(home.lake)
    compiled = compile_pipeline("tests.tiny_supervised.settings:SETTINGS", home)
    values = local.typed(CompiledPipeline.read(compiled), "2020-03-01", [])
    outcomes = local.run(compiled, home, "march", values, by=_first_three)
    assert outcomes["validate"].state == "complete", outcomes["validate"].summary
    (made,) = outcomes["transform"].outputs["examples"]
    rows = {name: made["properties"][f"rows_{name}"] for name in ("train", "validation", "test")}
    assert rows == {"train": 2200, "validation": 700, "test": 100}


def _first_three(request):
    from runtime.launch import launch
    from runtime.protocol import Outcome

    wanted = ("ingest", "validate", "transform")
    return launch(request) if request.node in wanted else Outcome("failed", error="{}", summary="not wanted")
