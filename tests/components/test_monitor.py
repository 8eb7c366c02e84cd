"""monitor: drift is measured right, told in words and shown, and never a fault."""

from __future__ import annotations

import sys
import types
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import ks_2samp

from airtight.errors import TerminalError
from airtight.verdict import Verdict
from components.artifacts import DriftReport
from components.measures import drift
from components.monitor import REPORT, monitor
from components.schema import ExampleSchema, Feature
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
        found = drift.measure(NUMBER, numbers(seed, 900), numbers(1000 + seed, 600))
        above += found.psi > found.noise
    # The bound holds in 99 of 100 cases; more than 10 of 200 would come once in a million series.
    assert above <= 10
    assert found.noise < 0.1


def test_a_shifted_number_is_seen_by_every_measure():
    reference, interval = numbers(1), numbers(2, mean=1.0)
    found = drift.measure(NUMBER, reference, interval)
    assert found.psi > 0.5
    assert found.distances["KS"] == pytest.approx(ks_2samp(reference, interval).statistic)
    assert found.distances["Wasserstein"] == pytest.approx(1.0, abs=0.05)
    assert found.reference.sum() == pytest.approx(1) == found.interval.sum()
    assert found.reference[:-1] == pytest.approx(0.1, abs=0.01)
    assert len(found.bins) == len(found.reference) == 11


def test_missing_values_are_drift_too():
    reference, interval = numbers(1), numbers(2)
    interval[:1000] = np.nan
    found = drift.measure(NUMBER, reference, interval)
    assert found.missing == (0, 0.25)
    assert found.missing_shift == 0.25
    assert found.psi > 0.5
    assert found.distances["KS"] < 0.05


@pytest.mark.parametrize("gone", ["reference", "interval"])
def test_a_side_without_any_value_is_measured(gone):
    sides = {"reference": numbers(1), "interval": numbers(2)}
    sides[gone] = np.full(4000, np.nan, np.float32)
    found = drift.measure(NUMBER, sides["reference"], sides["interval"])
    assert found.psi > 1
    assert np.isnan(found.distances["KS"])


def test_a_number_with_few_values_has_few_bins():
    found = drift.measure(NUMBER, np.repeat(np.float32([1, 2]), 50), np.repeat(np.float32([1, 2]), 30))
    assert found.psi == pytest.approx(0)
    constant = drift.measure(NUMBER, np.ones(10, np.float32), np.full(10, 2, np.float32))
    assert constant.distances["Wasserstein"] == np.inf
    assert constant.psi > 1


def test_new_categories_are_named_with_their_share():
    reference = colours(1, {"red": 0.5, "blue": 0.4, "": 0.1})
    interval = colours(2, {"red": 0.5, "blue": 0.2, "": 0.1, "pink": 0.15, "grey": 0.05})
    found = drift.measure(CATEGORY, reference, interval)
    assert found.new == ("pink", "grey")
    assert found.new_share == pytest.approx(0.2, abs=0.03)
    assert found.missing == pytest.approx((0.1, 0.1), abs=0.02)
    assert found.bins == ("red", "blue", drift.OTHERS, drift.MISSING)
    assert 0.2 < found.distances["Jensen-Shannon"] < 0.5


def test_rare_categories_share_a_bin():
    shares = {f"c{i}": 1 / 40 for i in range(40)}
    found = drift.measure(CATEGORY, colours(1, shares), colours(2, shares))
    assert len(found.bins) == drift.BINS + 2
    assert found.reference.sum() == pytest.approx(1)
    assert found.psi < found.noise


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
