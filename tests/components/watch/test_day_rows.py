"""A day's rows as they pass by: counts, figures, pairs, gaps; and what is made of a day as labels come."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from components.measures import scores
from components.reports import label_quality as report
from components.schema import ExampleSchema, Feature, Label
from components.tasks import task_of
from components.watch.day_rows import DayRows
from components.watch.prediction_rows import Form
from components.watch.quality_days import RIPE, DayQuality, DaySettings, settled_state

SCHEMA = ExampleSchema((Feature("colour", "category", ""),), "broken", "at", ("id",), ("colour",))
FORM = Form(SCHEMA, ("id",), "America/New_York")
TASK = task_of(SCHEMA)
START = datetime(2020, 3, 6, 5, tzinfo=UTC)


def table(statuses: list[str], minutes: list[float] | None = None, **columns) -> pa.Table:
    count = len(statuses)
    rng = np.random.default_rng(0)
    minutes = minutes or [n * 1400 / count for n in range(count)]
    probability = columns.get("probability", rng.uniform(0.1, 0.9, count))
    labels = [
        int(value) if status == "labelled" else None
        for value, status in zip(rng.random(count) < probability, statuses, strict=True)
    ]
    return pa.table(
        {
            "_at": pa.array([START + timedelta(minutes=m) for m in minutes], pa.timestamp("us", "UTC")),
            "version": pa.array(columns.get("version", [2] * count), pa.int64()),
            "_beside": pa.array(columns.get("beside", [False] * count)),
            "probability": pa.array(np.asarray(probability, np.float32)),
            "slice_colour": pa.array(columns.get("colour", ["red"] * count)),
            "broken": pa.array(columns.get("labels", labels), pa.int64()),
            "_status": statuses,
            "_corrected": pa.array([False] * count),
            "_key": pa.array(columns.get("key", list(range(count))), pa.int64()),
        }
    )


def rows_of(*tables: pa.Table) -> DayRows:
    rows = DayRows("2020-03-06", TASK, FORM)
    for one in tables:
        rows.add(one)
    return rows


def test_figures_are_those_of_the_labelled_answers_however_the_rows_are_cut():
    statuses = ["labelled", "labelled", "pending", "never"] * 50
    colours = ["red", "green", "red", "red"] * 50
    whole = table(statuses, colour=colours)
    rows = rows_of(whole)
    assert rows.figures() == rows_of(*(whole.slice(n, 7) for n in range(0, 200, 7))).figures()
    assert (rows.counts["rows"], rows.counts["pending"], rows.counts["never"]) == (200, 50, 50)
    known = np.array(statuses) == "labelled"
    labels = np.array([label for label in whole["broken"].to_pylist() if label is not None])
    p = whole["probability"].to_numpy()[known]
    figures = rows.figures()
    assert figures["figures"]["log_loss"][0] == pytest.approx(scores.log_loss(labels, p))
    assert [(one["slice"], one["rows"]) for one in figures["slices"]] == [
        (["colour", "red"], 50),
        (["colour", "green"], 50),
    ]
    assert figures["versions"] == [{"version": 2, "beside": False, "rows": 100, "figures": figures["figures"]}]
    assert figures["blocks"].startswith("12 runs")


def test_both_versions_are_compared_on_the_rows_of_both():
    answers = table(["labelled"] * 100)
    labels = answers["broken"].to_pylist()
    worse = np.clip(answers["probability"].to_numpy() * 0.3, 0.01, 1)
    beside = table(["labelled"] * 100, probability=worse, labels=labels, version=[1] * 100, beside=[True] * 100)
    rows = rows_of(answers, beside.slice(0, 60))
    (pair,) = rows.pairs()
    assert (pair.version, pair.beside, pair.rows, pair.metric) == (2, 1, 60, "log_loss")
    truth = np.array(labels[:60])
    expected = scores.log_loss(truth, answers["probability"].to_numpy()[:60]) - scores.log_loss(truth, worse[:60])
    assert pair.difference == pytest.approx(expected, rel=1e-5) and pair.variance > 0
    assert rows.counts["rows"] == 100 and rows.counts["beside"] == 60
    assert rows_of(answers).pairs() == []


def test_of_several_labels_figures_and_pairs_go_by_the_labels_names():
    schema = replace(SCHEMA, more_labels=(Label("length", "regression"),))
    answers = table(["labelled", "pending"] * 60)
    known = [label is not None for label in answers["broken"].to_pylist()]
    lengths = pa.array(np.arange(120.0), mask=~np.array(known))
    place = answers.column_names.index("probability")
    answers = answers.set_column(place, "broken_probability", answers["probability"])
    answers = answers.append_column("length_prediction", pa.array(np.arange(120, dtype=np.float32) + 2))
    answers = answers.append_column("length", lengths)
    beside = answers.set_column(place, "broken_probability", pa.array(np.full(120, 0.5, np.float32)))
    for name, value in (("_beside", pa.array([True] * 120)), ("version", pa.array([1] * 120))):
        beside = beside.set_column(beside.column_names.index(name), name, value)
    rows = DayRows("2020-03-06", task_of(schema), replace(FORM, schema=schema))
    for part in (answers.slice(0, 50), answers.slice(50), beside):
        rows.add(part)
    figures, p = rows.figures()["figures"], answers["broken_probability"].to_numpy()[known]
    labels = np.array([label for label in answers["broken"].to_pylist() if label is not None])
    assert figures["broken_log_loss"][0] == pytest.approx(scores.log_loss(labels, p))
    assert figures["length_mae"][0] == pytest.approx(2.0)
    (pair,) = rows.pairs()
    assert (pair.metric, pair.rows) == ("broken_log_loss", 60)
    assert pair.difference == pytest.approx(scores.log_loss(labels, p) - scores.log_loss(labels, np.full(60, 0.5)))


def test_predictions_that_are_none_have_neither_figures_nor_pairs():
    broken = table(["labelled"] * 40, probability=[float("nan")] * 40, labels=[0, 1] * 20)
    rows = rows_of(broken, table(["labelled"] * 40, version=[1] * 40, beside=[True] * 40))
    assert rows.figures() == {"figures": {}, "slices": [], "versions": [], "not_finite": 40}
    (pair,) = rows.pairs()
    assert (pair.rows, pair.wrong, pair.beside_wrong) == (0, 40, 0)


@pytest.mark.parametrize("is_beside", [False, True], ids=["of the new version", "of the former one"])
def test_rows_that_one_of_two_versions_answers_wrongly_are_left_out_of_their_pair_and_counted(is_beside):
    answers = table(["labelled"] * 100)
    labels, p = answers["broken"].to_pylist(), answers["probability"].to_numpy()
    broken = p.copy()
    broken[:3] = np.nan
    sides = [p, broken] if is_beside else [broken, p]
    rows = rows_of(
        table(["labelled"] * 100, probability=sides[0], labels=labels),
        table(["labelled"] * 100, probability=sides[1], labels=labels, version=[1] * 100, beside=[True] * 100),
        # Of a third one, nothing of which disturbs the others.
        table(["labelled"] * 100, probability=p * np.nan, labels=labels, version=[0] * 100, beside=[True] * 100),
    )
    third, pair = rows.pairs()
    assert (pair.version, pair.beside, pair.rows, pair.difference) == (2, 1, 97, 0.0)
    assert (pair.wrong, pair.beside_wrong) == ((0, 3) if is_beside else (3, 0))
    assert (third.beside, third.rows, third.beside_wrong) == (0, 0, 100 if is_beside else 97)


def test_the_longest_gap_counts_the_ends_of_the_day():
    assert rows_of(table(["pending"] * 3, [60, 120, 1380])).gap_hours == 21
    assert rows_of(table(["pending"], [600]), table(["pending"], [660])).gap_hours == 13
    assert rows_of().gap_hours == 24


def test_no_labels_no_figures():
    assert rows_of(table(["pending"] * 30)).figures()["figures"] == {}


def quality(**fields) -> DayQuality:
    return DayQuality("2020-03-06", "2020-03-07T05:00:00+00:00", **{"rows": 100, "gap_hours": 2.0} | fields)


def test_states_follow_the_share_that_is_settled():
    settings = DaySettings()
    for pending, state, words in ((60, "unripe", "unripe"), (7, "ripening", "93 % ripe"), (1, "ripe", "ripe")):
        day = settled_state(quality(labelled=100 - pending, pending=pending), 1, settings, None)
        assert (day.state, day.in_words) == (state, words)
    closed = settled_state(quality(labelled=40, pending=60), 30, settings, None)
    assert (closed.state, closed.never, closed.pending) == (RIPE, 60, 0)


def test_a_ripe_day_that_changes_is_reopened_and_keeps_its_estimate():
    before = settled_state(
        quality(labelled=100, digest="a", estimate={"auc": 0.7}, figures={"auc": [0.6, 0.5, 0.7]}),
        3,
        DaySettings(),
        None,
    )
    assert before.estimate_error == {"auc": pytest.approx(0.1)}
    same = settled_state(quality(labelled=100, digest="a"), 4, DaySettings(), before)
    changed = settled_state(quality(labelled=100, digest="b", estimate={"auc": 0.9}), 4, DaySettings(), before)
    assert (same.reopened, changed.reopened, changed.estimate) == (0, 1, {"auc": 0.7})
    assert DayQuality.of_json(changed.to_json()) == changed


def test_the_page_shows_days_of_every_state():
    rows = rows_of(table(["labelled"] * 80 + ["pending"] * 20))
    figures = rows.figures()
    counts = {name: rows.counts[name] for name in ("rows", "labelled", "pending")}
    day = DayQuality("2020-03-06", "", **counts, **figures, pairs=[asdict(pair) for pair in rows.pairs()])
    ripening = settled_state(day, 1, DaySettings(), None)
    ripe = settled_state(
        DayQuality(**{**asdict(day), "day": "2020-03-05", "pending": 0, "estimate": {"auc": 0.8}}),
        9,
        DaySettings(),
        None,
    )
    empty = settled_state(DayQuality("2020-03-07", ""), 1, DaySettings(), None)
    page = report.page("toy", TASK, [ripe, ripening, empty], "2020-03-08")
    assert "80 % ripe" in page and "no predictions" in page and page.count("<img") == 3
    assert "Slices of 2020-03-05" in page and "<td>version</td><td>2</td>" in page
    assert report.summary(TASK, [ripe, ripening, empty]).startswith("The last ripe day is 2020-03-05: ROC AUC 0.")
    assert "Open: 2020-03-06 80 % ripe." in report.summary(TASK, [ripe, ripening, empty])
