"""monitor: drift is measured right, told in words and shown, and never a fault."""

from __future__ import annotations

import dataclasses
import functools
import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from scipy.stats import ks_2samp
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from airtight.errors import TerminalError
from airtight.verdict import Verdict
from components.artifacts import DriftReport
from components.data.feature_kinds import kind_of
from components.measures import drift
from components.measures.profile import Profile, compare
from components.measures.sample import Sample
from components.monitor import REPORT, SHIFT_LIMIT, monitor
from components.schema import ExampleSchema, Feature
from components.tasks.regression import Regression
from tests.components import toy

NUMBER = Feature("size", "number", "a size", "m")
CATEGORY = Feature("colour", "category", "a colour")


def numbers(seed: int, rows: int = 4000, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, rows).astype(np.float32)


def colours(seed: int, shares: dict[str, float], rows: int = 4000) -> np.ndarray:
    return np.random.default_rng(seed).choice(list(shares), rows, p=list(shares.values())).astype(object)


def test_psi_is_the_textbook_sum():
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    assert drift.psi(p, q) == pytest.approx(-0.25 * np.log(0.5) + 0.25 * np.log(1.5))
    assert drift.psi(p, p) == 0
    assert np.isfinite(drift.psi(np.array([1.0, 0.0]), np.array([0.0, 1.0])))


def test_the_noise_bounds_psi_when_nothing_changed():
    above = 0
    for seed in range(200):
        measured = drift.measure(NUMBER, numbers(seed, 900), numbers(1000 + seed, 600))
        above += measured.psi > measured.noise
    # The bound holds in 99 of 100 cases; more than 10 of 200 would come once in a million series.
    assert above <= 10
    assert measured.noise < 0.1


def test_a_shifted_number_is_seen_by_every_measure():
    reference, interval = numbers(1), numbers(2, mean=1.0)
    measured = drift.measure(NUMBER, reference, interval)
    assert measured.psi > 0.5
    assert measured.distances["KS"] == pytest.approx(ks_2samp(reference, interval).statistic)
    assert measured.distances["Wasserstein"] == pytest.approx(1.0, abs=0.05)
    assert measured.reference.sum() == pytest.approx(1) == measured.interval.sum()
    assert measured.reference[:-1] == pytest.approx(0.1, abs=0.01)
    assert len(measured.bins) == len(measured.reference) == 11


def test_missing_values_are_drift_too():
    reference, interval = numbers(1), numbers(2)
    interval[:1000] = np.nan
    measured = drift.measure(NUMBER, reference, interval)
    assert measured.missing == (0, 0.25)
    assert measured.missing_shift == 0.25
    assert measured.psi > 0.5
    assert measured.distances["KS"] < 0.05


@pytest.mark.parametrize("gone", ["reference", "interval"])
def test_a_side_without_any_value_is_measured(gone):
    sides = {"reference": numbers(1), "interval": numbers(2)}
    sides[gone] = np.full(4000, np.nan, np.float32)
    measured = drift.measure(NUMBER, sides["reference"], sides["interval"])
    assert measured.psi > 1
    assert np.isnan(measured.distances["KS"])


def test_a_number_with_few_values_has_few_bins():
    measured = drift.measure(NUMBER, np.repeat(np.float32([1, 2]), 50), np.repeat(np.float32([1, 2]), 30))
    assert measured.psi == pytest.approx(0)
    constant = drift.measure(NUMBER, np.ones(10, np.float32), np.full(10, 2, np.float32))
    assert constant.distances["Wasserstein"] == np.inf
    assert constant.psi > 1


def test_new_categories_are_named_with_their_share():
    reference = colours(1, {"red": 0.5, "blue": 0.4, "": 0.1})
    interval = colours(2, {"red": 0.5, "blue": 0.2, "": 0.1, "pink": 0.15, "grey": 0.05})
    measured = drift.measure(CATEGORY, reference, interval)
    assert measured.new == ("pink", "grey")
    assert measured.new_share == pytest.approx(0.2, abs=0.03)
    assert measured.missing == pytest.approx((0.1, 0.1), abs=0.02)
    assert measured.bins == ("red", "blue", drift.OTHERS, drift.MISSING)
    assert 0.2 < measured.distances["Jensen-Shannon"] < 0.5


def test_rare_categories_share_a_bin():
    shares = {f"c{i}": 1 / 40 for i in range(40)}
    measured = drift.measure(CATEGORY, colours(1, shares), colours(2, shares))
    assert len(measured.bins) == drift.BINS + 2
    assert measured.reference.sum() == pytest.approx(1)
    assert measured.psi < measured.noise


class _Tags(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs monitor over two splits of the toy pipeline."""
    code = types.ModuleType("toy_monitor")
    code.SCHEMA = toy.SCHEMA
    monkeypatch.setitem(sys.modules, "toy_monitor", code)

    def run(test: pa.Table, **settings) -> tuple[DriftReport, Verdict, str]:
        examples = toy.examples(tmp_path / "examples", train=toy.table(3000, 1), test=test)
        report = toy.artifact(DriftReport, tmp_path / "drift")
        given = {"reference": "train", "interval": "test", "psi_limit": 0.25, "label_limit": 0.1, "share_limit": 0.25}
        monitor.EXECUTOR_SPEC.executor_class._FUNCTION(
            examples=examples, drift=report, schema="toy_monitor:SCHEMA", **given | settings
        )
        folder = Path(report.uri)
        return report, Verdict.read(folder), (folder / REPORT).read_text(encoding="utf-8")

    run.code = code
    return run


def _changed(table: pa.Table, **columns) -> pa.Table:
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(values, table.schema.field(name).type))
    return table


def test_equal_rows_do_not_drift(run):
    report, verdict, page = run(toy.table(2000, 2))
    assert report.drifted == 0
    assert (report.interval_start, report.interval_end) == toy.INTERVAL
    assert all(check.passed for check in verdict.checks)
    assert [check.name for check in verdict.checks][2:] == list(toy.SCHEMA.names)
    assert "0 of 3 features drifted" in str(verdict) and "0 of 3 features drifted" in page


def test_a_drifted_feature_warns_and_the_node_succeeds(run):
    table = toy.table(2000, 2)
    report, verdict, _ = run(_changed(table, weight=[9.0] * 2000))
    failed = [check for check in verdict.checks if not check.passed]
    assert [check.name for check in failed] == ["share of drifted features", "weight"]
    assert all(check.severity == "warning" for check in failed) and verdict.passed
    assert report.drifted == 1
    # A third of the features may drift when the setting says so.
    report, verdict, _ = run(_changed(table, weight=[9.0] * 2000), share_limit=0.5)
    assert report.drifted == 0 and any(check.name == "weight" and not check.passed for check in verdict.checks)


def test_new_categories_and_missing_values_are_told(run):
    table = toy.table(2000, 2)
    colour = table["colour"].to_pylist()
    size = table["size"].to_pylist()
    _, verdict, page = run(
        _changed(table, colour=["<b>pink"] * 100 + colour[100:], size=[float("nan")] * 500 + size[500:])
    )
    notes = {check.name: check.note for check in verdict.checks if not check.passed}
    assert "5.0% of the rows hold values never seen: <b>pink" in notes["colour"]
    assert notes["size"].startswith("missing in 10.")
    assert "&lt;b&gt;pink" in page and "<b>pink" not in page


def test_a_moved_label_rate_is_drift(run):
    report, verdict, _ = run(toy.table(2000, 2, label=1))
    label = verdict.checks[0]
    assert (label.name, label.passed, label.value) == ("label rate", False, 1.0)
    assert 0.3 < label.baseline < 0.7
    assert report.drifted == 1


def test_the_page_needs_nothing_else(run):
    _, _, page = run(toy.table(2000, 2))
    seen = _Tags()
    seen.feed(page)
    assert not seen.links and "script" not in seen.tags and "@import" not in page and "url(" not in page
    assert seen.tags.count("svg") == 1 + len(toy.SCHEMA.names)


def test_an_empty_split_is_refused(run):
    with pytest.raises(TerminalError, match="The split test has no rows"):
        run(toy.table(2000, 2).slice(0, 0))


def test_a_schema_that_the_examples_lack_is_refused(run):
    run.code.SCHEMA = ExampleSchema((*toy.SCHEMA.features, Feature("length", "number", "")), "broken", "at", (), ())
    with pytest.raises(TerminalError, match="lack columns"):
        run(toy.table(2000, 2))


def test_a_few_rows_are_given_their_noise(run):
    # 40 rows out of 3,000 alone give a psi around 0.3.
    report, verdict, _ = run(toy.table(40, 5))
    bounds = [float(check.threshold.removeprefix("psi <= ")) for check in verdict.checks[2:]]
    assert min(bounds) > 0.25 + 0.1
    assert report.drifted == 0


FEATURES = {
    "words": Feature("words", "text", "a text"),
    "tags": Feature("tags", "categories", "tags"),
    "place": Feature("place", "vector", "a place", length=3),
    "photo": Feature("photo", "image", "a photo"),
}


def wide(seed: int, rows: int = 2000) -> dict[str, list]:
    """Columns of the kinds that are neither number nor category."""
    rng = np.random.default_rng(seed)
    return {
        "words": [" ".join(rng.choice(["the", "a", "train", "tram", "late"], n)) for n in rng.integers(1, 9, rows)],
        "tags": [list(rng.choice(["red", "new", "big"], n, replace=False)) for n in rng.integers(0, 3, rows)],
        "place": list(rng.normal(size=(rows, 3)).astype(np.float32)),
        "photo": [b"x" * int(n) for n in rng.integers(100, 200, rows)],
    }


def drifts_of(reference: dict[str, list], interval: dict[str, list], batch: int = 300) -> dict[str, drift.Drift]:
    """What moved, by name, of columns that are read a few rows at a time."""
    profiles = []
    for columns in (reference, interval):
        arrow = {n: pa.array(v, kind_of(FEATURES[n]).arrow_type(FEATURES[n])) for n, v in columns.items()}
        profile, table = Profile(FEATURES.values()), pa.table(arrow)
        for start in range(0, len(table), batch):
            profile.add(table.slice(start, batch))
        profiles.append(profile)
    return {drifted.name: drifted for drifted in compare(FEATURES.values(), *profiles)}


def test_rows_of_every_kind_that_did_not_change_have_not_drifted():
    drifts = drifts_of(wide(1), wide(2))
    of_text, of_tags = ("words (words)", "words (length)"), ("tags (items)", "tags (items in a row)")
    assert list(drifts) == [*of_text, *of_tags, "place (norm)", "photo (bytes)"]
    for moved in drifts.values():
        assert moved.psi < moved.noise and not moved.new and moved.missing_shift < 0.03
    assert drifts["place (norm)"].shift < 0.15


def test_every_kind_of_feature_drifts_by_what_it_is():
    changed = wide(2)
    changed["words"] = [text.replace("train", "bus") + " again" * 9 for text in changed["words"]]
    changed["tags"] = [[*tags, "free"] for tags in changed["tags"]]
    changed["place"] = [place + np.float32([0, 2, 0]) for place in changed["place"]]
    changed["photo"] = [photo * 3 if i % 2 else b"" for i, photo in enumerate(changed["photo"])]
    drifts = drifts_of(wide(1), changed)
    assert drifts["words (words)"].new == ("again", "bus") and drifts["words (words)"].new_share > 0.5
    assert drifts["words (length)"].psi > 1
    assert drifts["tags (items)"].new == ("free",) and drifts["tags (items in a row)"].psi > 0.25
    assert drifts["place (norm)"].shift == pytest.approx(2, abs=0.1) and drifts["place (norm)"].psi > 0.25
    assert drifts["photo (bytes)"].missing == (0, 0.5) and drifts["photo (bytes)"].psi > 1


def test_a_mean_that_moved_is_seen_though_the_norms_are_the_same():
    mirrored = wide(1)
    flipped = mirrored | {"place": [np.abs(place) for place in mirrored["place"]]}
    drifted = drifts_of(mirrored, flipped)["place (norm)"]
    assert drifted.psi == pytest.approx(0) and drifted.shift > SHIFT_LIMIT


def test_how_rows_are_cut_changes_no_figure():
    whole, cut = drifts_of(wide(1), wide(2), 2000), drifts_of(wide(1), wide(2), 7)
    assert [str(drifted) for drifted in whole.values()] == [str(drifted) for drifted in cut.values()]


def test_of_more_rows_than_the_limit_a_part_is_kept_that_is_the_same_each_time():
    values = np.random.default_rng(1).normal(size=300_000).astype(np.float32)

    def sampled(batch: int) -> Sample:
        made = Sample(limit=50_000)
        for start in range(0, len(values), batch):
            made.add({"x": values[start : start + batch]})
        return made

    one, other = sampled(8192), sampled(1000)
    assert 25_000 < len(one["x"]) <= 50_000 and not one.whole and one.rows == 300_000
    np.testing.assert_array_equal(one["x"], other["x"])
    assert ks_2samp(one["x"], values).statistic < 0.01
    whole = Sample()
    whole.add({"x": values})
    assert whole.whole and len(whole["x"]) == 300_000
    part = drift.numbers(NUMBER, drift.Numbers.of(one["x"], 300_000), drift.Numbers.of(one["x"] + 1, 300_000))
    full = drift.measure(NUMBER, values, values + 1)
    assert part.psi == pytest.approx(full.psi, rel=0.02) and part.noise > full.noise


def test_many_different_values_are_counted_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(drift, "MOST_CATEGORIES", 1000)
    sides = []
    for shift in (0, 50_000):
        side = drift.Categories()
        for start in range(0, 20_000, 100):
            side.add({f"id{n + shift}": 1 for n in range(start, start + 100)} | {"often": 50, "": 10})
        assert len(side.counts) <= 1000 and side.rows == 200 * 160 and side.counts["often"] == 200 * 50
        sides.append(side)
    measured = drift.categories(CATEGORY, *sides)
    # Nobody knows what a reference never had that was not kept whole.
    assert measured.new == () and measured.psi < 0.1 and measured.missing == pytest.approx((1 / 16, 1 / 16))


class OwnTask(Regression):
    """A task of one's own: labels that are names, or numbers."""

    @property
    def label_type(self) -> pa.DataType:
        return pa.string() if self.schema.label == "colour_of" else pa.float64()

    def score(self, predictions: np.ndarray) -> np.ndarray:
        return predictions.astype(np.float64)


@pytest.mark.parametrize("label", ["colour_of", "price"])
def test_a_label_that_is_a_name_or_a_number_drifts_by_its_distribution(run, monkeypatch, label):
    task = f"{__name__}:OwnTask"
    run.code.SCHEMA = dataclasses.replace(toy.SCHEMA, label=label, task=task)

    def labelled(table: pa.Table, moved: bool) -> pa.Table:
        rng = np.random.default_rng(len(table))
        names = rng.choice(["red", "blue"], len(table), p=[0.9, 0.1] if moved else [0.5, 0.5])
        values = pa.array(names) if label == "colour_of" else pa.array(rng.normal(2.0 * moved, 1, len(table)))
        return table.append_column(label, values)

    monkeypatch.setattr(toy, "table", functools.partial(_labelled_table, toy.table, lambda t: labelled(t, moved=False)))
    plain = toy.table(2000, 2)
    report, verdict, page = run(plain)
    assert report.drifted == 0 and [check.name for check in verdict.checks[:2]] == [label, "share of drifted features"]
    report, verdict, page = run(labelled(plain.drop_columns(label), moved=True))
    assert report.drifted == 1 and not verdict.checks[0].passed and label in page


def _labelled_table(make, label, *given) -> pa.Table:
    return label(make(*given))


@pytest.mark.slow
def test_a_model_whose_predictions_moved_is_drift(run, tmp_path):
    model = toy.artifact(standard_artifacts.Model, tmp_path / "model")
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="weight")])
    def serve(weight):
        return {"probability": tf.sigmoid(weight)}

    module.serve = serve
    tf.saved_model.save(module, path_utils.serving_model_dir(model.uri), signatures=serve)
    table = toy.table(2000, 2)
    report, verdict, _ = run(table, model=model)
    assert report.drifted == 0 and verdict.checks[0].name == "prediction" and verdict.checks[0].passed
    report, verdict, _ = run(_changed(table, weight=[2.0] * 2000), model=model, share_limit=1.0)
    assert report.drifted == 1 and next(check.name for check in verdict.checks if not check.passed) == "prediction"
