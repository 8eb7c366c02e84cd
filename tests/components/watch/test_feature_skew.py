"""Skew: logged features beside recomputed ones, of every kind of feature."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.interval import Interval
from airtight.verdict import Verdict
from components import skew as module
from components.artifacts import SkewReport
from components.data.example_frame import columns_of
from components.schema import ExampleSchema, Feature
from components.watch.feature_skew import Sampled, compare, sampled

SCHEMA = ExampleSchema(
    features=(
        Feature("size", "number", "a size"),
        Feature("colour", "category", "a colour"),
        Feature("words", "text", "words"),
        Feature("tags", "categories", "tags"),
        Feature("place", "vector", "a place", length=2),
        Feature("photo", "image", "a photo"),
    ),
    label="broken",
    time="at",
    keys=("id",),
    slices=(),
)
AT = datetime(2020, 3, 6, 12, tzinfo=UTC)
DAY = Interval(AT - timedelta(hours=12), AT + timedelta(hours=12))
GOOD = {"size": 1.5, "colour": "red", "words": "a b", "tags": ["x", "y"], "place": [1.0, 2.0], "photo": b"\xff\xd8"}
MISSING = {"size": None, "colour": "", "words": "", "tags": [], "place": None, "photo": b""}


def log_rows(rows: dict[str, dict], first: int = 0) -> pa.Table:
    """Rows as the log has them: what has several values a row is JSON."""
    single, others = ("size", "colour", "words", "photo"), ("tags", "place")

    def text(value):
        return "b64:/9g=" if value == b"\xff\xd8" else value.decode() if isinstance(value, bytes) else value

    count = len(rows)
    columns = {f"input_{name}": [text(row[name]) for row in rows.values()] for name in single}
    return pa.table(
        {
            "time": pa.array([AT] * count, pa.timestamp("us", "UTC")),
            "version": pa.array([3] * count, pa.int64()),
            "signature": ["serving_default"] * count,
            "code": ["OK"] * count,
            "request_id": list(rows),
            "row": pa.array([0] * count, pa.int32()),
            "rows": pa.array([1] * count, pa.int32()),
            **columns,
            "inputs_json": [json.dumps({name: row[name] for name in others}) for row in rows.values()],
        }
    )


def write_log(root: Path, *tables: pa.Table) -> None:
    folder = root / "toy" / "date=2020-03-06"
    folder.mkdir(parents=True)
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet")


def recomputed(rows: dict[str, dict]) -> pa.Table:
    types = columns_of(SCHEMA, labelled=False)
    columns = {name: pa.array([row[name] for row in rows.values()], types.field(name).type) for name in SCHEMA.names}
    at = pa.array([AT] * len(rows), pa.timestamp("us", "UTC"))
    return pa.table({**columns, "at": at, "id": pa.array(list(rows), pa.string())})


def test_equal_rows_are_equal_in_every_kind_and_missing_is_missing(tmp_path):
    rows = {"a": GOOD, "b": MISSING}
    write_log(tmp_path, log_rows(rows))
    features, unknown = compare(SCHEMA, sampled(tmp_path, "toy", DAY, 100), recomputed(rows), "id", 1e-6)
    assert unknown == 0
    assert [(one.feature.name, one.rows, one.differing) for one in features] == [(n, 2, 0) for n in SCHEMA.names]


@pytest.mark.parametrize("name", SCHEMA.names)
def test_what_differs_lacks_or_is_too_much_is_counted_by_feature_with_examples(tmp_path, name):
    other = {"size": 2.5, "colour": "green", "words": "c", "tags": ["x"], "place": [1.0, 3.0], "photo": b"other"}
    logged = {"a": {**GOOD, name: other[name]}, "b": {**GOOD, name: MISSING[name]}, "c": GOOD, "d": GOOD}
    batch = {"a": GOOD, "b": GOOD, "c": {**GOOD, name: MISSING[name]}, "d": GOOD}
    write_log(tmp_path, log_rows(logged))
    features, _ = compare(SCHEMA, sampled(tmp_path, "toy", DAY, 100), recomputed(batch), "id", 1e-6)
    by_name = {one.feature.name: one for one in features}
    assert [one.feature.name for one in features if one.differing] == [name]
    one = by_name[name]
    assert (one.mismatch, one.missing, one.extra, one.share) == (1, 1, 1, 0.75)
    assert {(example["key"], example["kind"]) for example in one.examples} == {
        ("a", "mismatch"),
        ("b", "missing"),
        ("c", "extra"),
    }
    assert one.examples[0]["version"] == 3
    if name == "size":
        assert one.smape == pytest.approx(2 * 1 / 4 / 2)


def test_numbers_within_the_tolerance_are_the_same(tmp_path):
    write_log(tmp_path, log_rows({"a": {**GOOD, "size": 1.5 * (1 + 1e-7)}, "b": {**GOOD, "size": 1.6}}))
    batch = recomputed({"a": GOOD, "b": GOOD})
    features, _ = compare(SCHEMA, sampled(tmp_path, "toy", DAY, 100), batch, "id", 1e-6)
    assert features[0].mismatch == 1


def test_a_sample_has_always_the_same_keys_and_each_row_once(tmp_path):
    rows = {f"k{n}": GOOD for n in range(3000)}
    table = log_rows(rows)
    write_log(tmp_path, table, table.slice(0, 500))
    sample = sampled(tmp_path, "toy", DAY, 200)
    assert sample.seen == 3500 and 150 <= sample.rows.num_rows <= 200
    write_log(tmp_path / "other", table.take(pa.array(np.random.default_rng(0).permutation(3000))))
    again = sampled(tmp_path / "other", "toy", DAY, 200)
    assert set(sample.rows["_key"].to_pylist()) <= set(again.rows["_key"].to_pylist())


def test_rows_of_a_log_without_a_feature_are_no_skew_and_are_counted(tmp_path):
    write_log(tmp_path, log_rows({"a": GOOD}).drop_columns(["input_size", "inputs_json"]))
    features, _ = compare(SCHEMA, sampled(tmp_path, "toy", DAY, 10), recomputed({"a": GOOD}), "id", 1e-6)
    assert {one.feature.name: one.not_logged for one in features} == {
        "size": 1,
        "colour": 0,
        "words": 0,
        "tags": 1,
        "place": 1,
        "photo": 0,
    }
    assert sum(one.differing for one in features) == 0


def test_nothing_of_another_time_is_compared(tmp_path):
    write_log(tmp_path, log_rows({"a": GOOD}))
    later = Interval(DAY.end, DAY.end + timedelta(hours=1))
    sample = sampled(tmp_path, "toy", later, 10)
    assert (sample.seen, sample.rows.num_rows) == (0, 0)
    assert compare(SCHEMA, sample, recomputed({"a": GOOD}), "id", 1e-6)[0][0].rows == 0
    assert isinstance(sample, Sampled)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The real component over these rows."""
    monkeypatch.setattr(module, "load", {"toy:SCHEMA": SCHEMA}.__getitem__)

    def run(logged: dict[str, dict], batch: dict[str, dict], **settings) -> SkewReport:
        examples, made = standard_artifacts.Examples(), SkewReport()
        examples.uri, made.uri = str(tmp_path / "examples"), str(tmp_path / "skew")
        (tmp_path / "examples" / "Split-predict").mkdir(parents=True)
        (tmp_path / "skew").mkdir()
        pq.write_table(recomputed(batch), tmp_path / "examples" / "Split-predict" / "examples.parquet")
        for name, end in (("interval_start", DAY.start), ("interval_end", DAY.end)):
            examples.set_string_custom_property(name, end.isoformat())
        write_log(tmp_path / "log", log_rows(logged))
        given = {"model_name": "toy", "schema": "toy:SCHEMA", "log_root": str(tmp_path / "log")} | settings
        module.skew.EXECUTOR_SPEC.executor_class._FUNCTION(examples=examples, skew=made, **given)
        return made

    return run


def test_the_component_says_which_features_are_skewed_and_fails_for_none(run):
    batch = {f"k{n}": GOOD for n in range(50)}
    logged = {f"k{n}": {**GOOD, "size": 9.0} if n < 5 else GOOD for n in range(60)}
    made = run(logged, batch)
    assert (made.rows, made.unknown, made.skewed) == (50, 10, 1)
    assert made.summary.startswith("1 of 6 features are skewed (size) in 50 logged rows. 10 logged rows are not among")
    verdict = Verdict.read(Path(made.uri))
    assert verdict.passed and [check.name for check in verdict.checks if not check.passed] == ["size"]
    record = json.loads((Path(made.uri) / "skew.json").read_text())
    assert record["features"][0]["examples"][0]["recomputed"] == 1.5
    page = (Path(made.uri) / "report.html").read_text()
    assert "a size" in page and "mismatch" in page and "k0" in page


def test_requests_without_the_key_are_not_enough_data(run):
    made = run({"drawn by chance": GOOD}, {"a": GOOD})
    assert (made.rows, made.unknown, made.skewed) == (0, 1, 0)
    assert made.summary == "Not enough data: none of 1 logged rows is among the examples; do clients send the key?"


def test_an_interval_that_is_none_is_refused(run):
    with pytest.raises(TerminalError, match="Invalid data interval"):
        run({"a": GOOD}, {"a": GOOD}, answered="yesterday")
