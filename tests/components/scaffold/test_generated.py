"""A generated pipeline does what it should with its own data: lake, expectations, examples, compiled pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from airtight.interval import Interval
from commands.new import main
from components.data import example_frame
from components.data.lake import Lake
from components.ingest import _select
from components.measures.judging import judge
from tests.components.scaffold import tables

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("form", ["csv", "flowers", "digits"])
def test_expectations_and_transform_fit_its_own_data(form, root, tmp_path: Path, importable, spark):
    assert main(["NAME=bike", *tables.words_for(form, tmp_path)], root) == 0
    from pipelines.bike import expectations, lake, transform
    from pipelines.bike.schema import SCHEMA
    from pipelines.bike.settings import SETTINGS

    lake.fill(tmp_path / "lake")
    interval = Interval.parse(SETTINGS.example_interval, SETTINGS.zone)
    reader = _select(Lake(tmp_path / "lake"), lake.TABLES, interval, SETTINGS.zone, window_days=0, lake_version="now")
    results = list(judge(expectations.subjects(reader, spark)))
    assert len(results) > 3 and [str(result) for result in results if not result.passed] == []
    made = transform.transform(lambda name: reader.spark_frame(spark, name))
    rows = example_frame.typed(made, SCHEMA, "transform", labelled=True).toArrow().to_pylist()
    assert len(rows) == tables.ROWS.get(form, len({*reader.days()}) * 24)
    first = min(rows, key=lambda row: row[SCHEMA.keys[0]])
    if form == "flowers":
        assert (first["code"], first["species"]) == ("f0000", "setosa")
    elif form == "digits":
        assert (first["pixels"], first["tags"], first["digit"]) == ([0, 1.5, 0], ["round"], "0")
        assert first["picture"].startswith(b"\x89PNG") and first["story"].startswith("Once")
    else:
        assert (first["when_local"], first["hour"], first["weekday"]) == ("2020-01-01 00:00:00", 0, "Wed")
        assert first["events"] in (["market"], ["concert"], ["match"]) and first["season"] == "winter"
        assert isinstance(first["count"], float)


def test_weights_and_labels_that_are_added_to_its_schema_reach_the_examples(root, tmp_path: Path, importable, spark):
    assert main(["NAME=bike", *tables.words_for("csv", tmp_path), "DROP=temp,season"], root) == 0
    schema = root / "pipelines" / "bike" / "schema.py"
    seasons = f'more_labels=(Label("season", "multiclass", classes={tables.SEASONS}),)'
    added = schema.read_text().replace('label="count",', f'label="count",\n    weight="temp",\n    {seasons},')
    schema.write_text(added.replace("ExampleSchema, Feature", "ExampleSchema, Feature, Label"))
    from pipelines.bike import lake, transform
    from pipelines.bike.schema import SCHEMA

    rows = tables.rides(2)
    columns = {**{name: [row.get(name) for row in rows] for name in rows[0]}, "when": [tables.START] * 2}
    columns = {name: columns[name] for name in lake.TABLE.schema.names if name in columns}
    frame = spark.createDataFrame([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    assert set(columns) == set(lake.TABLE.schema.names) >= {"temp", "season", "count"}
    made = transform.transform(lambda _: frame).select("temp", "season", "count")
    assert {"temp", "season"} <= set(SCHEMA.columns) and made.count() == 2


@pytest.mark.parametrize("form", ["csv", "flowers"])
def test_it_compiles_and_its_own_tests_pass(form, root, tmp_path: Path, importable):
    from runtime.compile import compile_pipeline

    assert main(["NAME=bike", *tables.words_for(form, tmp_path)], root) == 0
    assert compile_pipeline("pipelines.bike.settings:SETTINGS").is_file()
    own = root / "pipelines" / "bike" / "tests" / "test_pipeline.py"
    names: dict = {}
    exec(compile(own.read_text(), own, "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
