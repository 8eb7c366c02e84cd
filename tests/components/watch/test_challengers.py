"""Challengers are fitted on what is known and scored on the same rows as the served model, whatever the task."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from components.artifacts import ChallengerReport, SummarizedDay
from components.challenger import challenger
from components.modelling import raw_features
from components.modelling.labelled_examples import LabelledExamples
from components.modelling.saved_model import SIGNATURE, serving_folder
from components.schema import Feature
from components.summarize import summarize
from components.watch import day_summary
from components.watch.challengers import FILE, LEAST_HISTORY, compare, fitted_answers
from components.watch.day_summary import DaySummary
from tests.components import tables, toy

pytestmark = pytest.mark.slow
ROWS, DAY_ROWS = 1500, 400
START = datetime(2020, 1, 2, 1, tzinfo=UTC)
"""The history's rows are a minute each from the first of January on: those of the last day are not all."""


def day_of(schema, seed=3):
    """A day's rows, of which each tenth has no label yet."""
    rows = tables.table(schema, DAY_ROWS, seed)
    known = np.arange(DAY_ROWS) % 10 > 0
    place = rows.column_names.index(schema.label)
    masked = pa.array(rows[schema.label].to_pylist(), rows[schema.label].type, mask=~known)
    return rows.set_column(place, schema.label, masked)


def examples(folder: Path, schema, history=None):
    made = tables.table(schema, ROWS, 1) if history is None else history
    toy.examples(folder, train=made, day=day_of(schema))
    return folder


@pytest.mark.parametrize("task", ["binary", "quantiles"])
def test_a_challenger_loses_what_a_fresh_model_does_and_a_model_of_another_world_loses_more(tmp_path, task):
    schema = tables.SCHEMAS[task]
    trees = {"model_fn": "components.modelling.tabular:build_trees"}
    fresh, _ = tables.train(tmp_path / "fresh", task.upper(), **trees)
    other = tables.table(schema, ROWS, 1)
    # In the other world colours mean the opposite.
    swapped = pa.array([{"red": "green", "green": "red"}.get(c, c) for c in other["colour"].to_pylist()])
    other = other.set_column(other.column_names.index("colour"), "colour", swapped)
    toy.examples(tmp_path / "other", train=other, validation=other.slice(0, 300), test=other.slice(0, 300))
    artifact = toy.artifact(tables.standard_artifacts.Examples, tmp_path / "other")
    artifact.splits = ["train", "validation", "test"]
    for name, instant in zip(("interval_start", "interval_end"), toy.INTERVAL, strict=True):
        artifact.set_string_custom_property(name, instant)
    stale, _ = tables.train(tmp_path / "stale", task.upper(), artifact, **trees)
    folder = examples(tmp_path / "watched", schema)
    losses = compare(folder, schema, START, [0, 1], served=stale, former=fresh)
    assert losses.rows == DAY_ROWS * 9 // 10
    assert set(losses.challengers) == {0, 1} and losses.challengers[0] != losses.challengers[1]
    assert losses.former is not None and losses.served > 1.2 * losses.former
    assert losses.challengers[0] == pytest.approx(losses.former, rel=0.25)
    assert losses.served > losses.challengers[0] * 1.1
    again = compare(folder, schema, START, [0, 1], served=stale, former=fresh)
    assert again == losses, "the same rows give the same figures"
    nothing = compare(folder, schema, START, [0], served=None)
    assert (nothing.rows, nothing.challengers) == (0, {})


def test_of_several_labels_the_first_decides_and_rows_count_that_have_all(tmp_path):
    schema = tables.SEVERAL
    trees = {"model_fn": "components.modelling.tabular:build_trees"}
    served, _ = tables.train(tmp_path / "served", "SEVERAL", **trees)
    day = day_of(schema)
    lacking = pa.array(day["other"].to_pylist(), mask=np.arange(DAY_ROWS) % 10 == 1)
    day = day.set_column(day.column_names.index("other"), "other", lacking)
    toy.examples(tmp_path / "watched", train=tables.table(schema, ROWS, 1), day=day)
    losses = compare(tmp_path / "watched", schema, START, [0], served=served, former=served)
    assert losses.rows == DAY_ROWS * 8 // 10 and losses.unit == "log loss of label"
    assert losses.served == losses.former and losses.challengers[0] == pytest.approx(losses.served, rel=0.3)


def test_too_little_history_or_one_label_is_no_challenger(tmp_path):
    schema = tables.BINARY
    few = tables.table(schema, LEAST_HISTORY - 1, 1)
    folder = examples(tmp_path / "few", schema, few)
    rows = LabelledExamples(folder, ["train"], schema)
    assert fitted_answers(schema, rows, rows) is None
    many = tables.table(schema, LEAST_HISTORY, 1)
    one = many.set_column(many.column_names.index("label"), "label", pa.array(np.ones(LEAST_HISTORY, np.int64)))
    rows = LabelledExamples(examples(tmp_path / "one", schema, one), ["train"], schema)
    assert fitted_answers(schema, rows, rows) is None


def test_a_served_model_that_is_gone_is_a_fault_in_words(tmp_path):
    """A champion that disappears during the comparison."""
    folder = examples(tmp_path / "watched", tables.BINARY)
    with pytest.raises(TerminalError, match="loaded"):
        compare(folder, tables.BINARY, START, [], served=tmp_path / "gone")


def served_by_hand(folder: Path, *features: Feature) -> standard_artifacts.Model:
    """A model of these features, not trained."""
    wanted = raw_features.specs(features)

    def serve(values):
        return {"probability": tf.sigmoid(tf.where(tf.math.is_nan(values["size"]), 0.0, values["size"]))}

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[wanted])
    model = toy.artifact(standard_artifacts.Model, folder)
    tf.saved_model.save(module, str(serving_folder(model.uri)), signatures={SIGNATURE: module.serve})
    return model


def pushed_as(folder: Path, version: int) -> standard_artifacts.PushedModel:
    push = toy.artifact(standard_artifacts.PushedModel, folder)
    push.set_int_custom_property("version", version)
    return push


def test_a_served_model_that_wants_a_feature_that_is_gone_fails_in_words_and_the_day_is_summarized(tmp_path, caplog):
    schema = {"schema": "tests.components.tables:BINARY", "zone": "UTC"}
    made = toy.examples(tmp_path / "watched", train=tables.table(tables.BINARY, 300, 1), day=day_of(tables.BINARY))
    pushed = pushed_as(tmp_path / "push", 7)

    def summarized(model):
        summary = toy.artifact(SummarizedDay, tmp_path / "summary")
        summarize.test_call(examples=made, summary=summary, champion=[model], champion_pushed=[pushed], **schema)
        return DaySummary.from_json((tmp_path / "summary" / day_summary.FILE).read_text())

    known = summarized(served_by_hand(tmp_path / "fits", *tables.BINARY.features))
    assert (known.version, known.predicted["predicted label"].there, known.rows) == (7, DAY_ROWS, DAY_ROWS)
    model = served_by_hand(tmp_path / "model", *tables.BINARY.features, Feature("width", "number", ""))
    unknown = summarized(model)
    assert (unknown.version, unknown.predicted, unknown.rows) == (0, {}, DAY_ROWS)
    assert "What version 7 predicts is not known" in caplog.text and "width" in caplog.text
    with pytest.raises(TerminalError, match="cannot answer for these examples") as raised:
        challenger.test_call(
            examples=made,
            report=toy.artifact(ChallengerReport, tmp_path / "report"),
            champion=[model],
            champion_pushed=[pushed],
            **schema,
        )
    assert "inputs that the schema lacks: width" in str(raised.value)


def test_without_a_served_version_the_step_says_so(tmp_path):
    made = toy.examples(tmp_path / "watched", train=tables.table(tables.BINARY, 300, 1), day=day_of(tables.BINARY))
    report = toy.artifact(ChallengerReport, tmp_path / "report")
    challenger.test_call(examples=made, report=report, schema="tests.components.tables:BINARY", zone="UTC")
    assert (report.day, report.version, report.rows) == (toy.INTERVAL[0][:10], 0, 0)
    assert report.summary == "No version is served: nothing is compared."
    written = json.loads((tmp_path / "report" / FILE).read_text())
    assert (written["served"], written["challengers"], written["former"]) == (0.0, {}, None)
