"""A day's summary is the same bytes however its rows are dealt out, and knows its values to .1 %."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pytest

from airtight.errors import TerminalError
from components.schema import Feature
from components.watch import day_summary
from components.watch.day_summary import Categories, DaySummary, Numbers, values_of

FEATURES = (
    Feature("amount", "number", ""),
    Feature("shop", "category", ""),
    Feature("words", "text", ""),
    Feature("tags", "categories", ""),
    Feature("place", "vector", "", length=2),
    Feature("photo", "image", ""),
)


def table(rows: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    amount = rng.normal(0, 100, rows).astype(np.float32)
    amount[rng.random(rows) < 0.1] = np.nan
    amount[:2] = np.inf, -np.inf
    place = rng.normal(size=(rows, 2)).astype(np.float32)
    return pa.table(
        {
            "amount": pa.array(amount, pa.float32()),
            "shop": pa.array([["", "a", "b", "ö"][n] for n in rng.integers(0, 4, rows)]),
            "words": pa.array([" ".join(["red", "blue", "green"][: n % 4]) for n in range(rows)]),
            "tags": pa.array([["x", "y"][: n % 3] for n in range(rows)], pa.list_(pa.string())),
            "place": pa.array(place.tolist(), pa.list_(pa.float32())),
            "photo": pa.array([b"\x89PNG" * (n % 3) for n in range(rows)], pa.binary()),
            "label": pa.array([1 if n % 2 else None for n in range(rows)], pa.int64()),
        }
    )


def test_predictions_are_a_part_of_the_summary():
    numbers = Numbers()
    numbers.add(np.array([0.25, 0.5, np.nan]))
    summary = DaySummary("2013-06-01", 3, predicted={"predicted late": numbers}, version=7)
    assert DaySummary.from_json(summary.to_json()) == summary
    merged = summary.merged(summary).predicted["predicted late"]
    assert (merged.there, merged.missing) == (4, 2)
    assert "predicted" not in DaySummary("2013-06-01").to_json(), "summaries without any are as they were"


def test_parts_merge_to_the_same_bytes_in_any_order():
    rows, known = table(600), (("label",), "shop", ("ö", "a", "none"))
    whole = DaySummary.of("2013-06-01", FEATURES, [rows], *known).to_json()
    assert set(json.loads(whole)["sources"]) == {"ö", "a"}
    assert DaySummary.from_json(whole).to_json() == whole
    for seed in range(20):
        rng = random.Random(seed)
        ends = sorted(rng.sample(range(1, 600), rng.randrange(1, 6)))
        slices = [rows.slice(start, end - start) for start, end in zip([0, *ends], [*ends, 600], strict=True)]
        parts = [DaySummary.of("2013-06-01", FEATURES, [part], *known) for part in slices]
        while len(parts) > 1:
            rng.shuffle(parts)
            parts.append(parts.pop().merged(parts.pop()))
        assert parts[0].to_json() == whole
        assert DaySummary.of("2013-06-01", FEATURES, slices, *known).to_json() == whole


def test_too_many_categories_are_hashed_to_the_same_counts_in_any_order(monkeypatch):
    monkeypatch.setattr(day_summary, "MOST_CATEGORIES", 50)
    known = [Categories() for _ in range(6)]
    rng = random.Random(0)
    for one in known:
        one.add({str(rng.randrange(120)): rng.randrange(1, 9) for _ in range(30)} | {"": 2})
    results = []
    for seed in range(10):
        random.Random(seed).shuffle(known)
        left, right = Categories(), Categories()
        for one in known[:3]:
            left.merge(one)
        for one in known[3:]:
            right.merge(one)
        left.merge(right)
        results.append((left.missing, left.hashed, sorted(left.counts.items())))
    assert all(result == results[0] for result in results)
    assert results[0][:2] == (12, True)


def test_known_values_are_counted_beside_hashed_ones(monkeypatch):
    day, past = Categories(), Categories()
    day.add({"a": 3, "new": 2})
    past.add({"a": 1, "b": 1})
    assert day.known(past) == 3
    monkeypatch.setattr(day_summary, "MOST_CATEGORIES", 1)
    past.add({"c": 1})
    assert past.hashed
    assert day.known(past) == 3


def test_a_summary_counts_what_is_missing_infinite_and_labelled():
    summary = DaySummary.of("2013-06-01", FEATURES, [table(600)], ("label",))
    amount = summary.numbers["amount"]
    assert (summary.rows, summary.labelled, amount.non_finite) == (600, 300, 2)
    assert amount.missing + amount.there + 2 == 600
    assert amount.missing > 30
    assert summary.numbers["photo"].missing == 200
    assert set(summary.categories) == {"shop", "words", "tags"}
    assert summary.categories["shop"].missing > 100


def test_labels_are_counted_by_name_and_rows_with_all_of_them():
    rows = table(600).append_column("other", pa.array([n if n % 3 else None for n in range(600)]))
    summary = DaySummary.of("2013-06-01", FEATURES, [rows.slice(0, 250), rows.slice(250)], ("label", "other"))
    assert summary.labels == {"label": 300, "other": 400}
    assert (summary.rows, summary.labelled) == (600, 200)
    assert summary.merged(summary).labels == {"label": 600, "other": 800}
    none = DaySummary.of("2013-06-01", FEATURES, [rows.slice(0, 0)], ("label", "other"))
    assert (none.labels, none.labelled) == ({"label": 0, "other": 0}, 0)


def test_a_bucket_holds_values_within_a_thousandth_and_keeps_their_order():
    values = np.concatenate([[0.0], np.geomspace(1e-30, 1e30, 4000), -np.geomspace(1e-30, 1e30, 4000)])
    numbers = [Numbers() for _ in values]
    for one, value in zip(numbers, values, strict=True):
        one.add(np.array([value]))
    keys = np.array([next(iter(one.buckets)) for one in numbers])
    np.testing.assert_allclose(values_of(keys), values, rtol=1.01e-3)
    order = np.argsort(values, kind="stable")
    assert (np.diff(keys[order]) >= 0).all()


def test_a_summary_is_read_as_it_was_written():
    text = DaySummary.of("2013-06-01", FEATURES, [table(50)]).to_json()
    assert DaySummary.from_json(text).to_json() == text
    # Labels were not counted by name at first.
    older = {name: value for name, value in json.loads(text).items() if name != "labels"}
    assert DaySummary.from_json(json.dumps(older)).to_json() == text
    assert "sources" not in older, "summaries of pipelines without sources are as they were"
    for wrong in ("", "[]", '{"day": 1}'):
        with pytest.raises(TerminalError, match="no summary"):
            DaySummary.from_json(wrong)
