"""A stream of any measures beside its batch: what is compared, and that a value on one side only is a difference."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airtight.errors import TerminalError
from airtight.interval import Interval
from airtight.verdict import Verdict
from components.close_stream import columns_of, totals_file
from components.measures.closing import Columns, checks, compared
from streaming.windows.declaration import Measure
from streaming.windows.sqlite_store import SqliteStore
from streaming.windows.store import Row
from tests.streaming.windows.shops import STREAM

BEGIN = datetime(2013, 6, 14, 10, tzinfo=UTC)
INTERVAL = Interval(BEGIN, BEGIN + timedelta(hours=1))
COLUMNS = Columns(("count", "cents", "largest"), {"mean_cents": "cents"})


def test_what_is_compared_is_what_the_stream_keeps() -> None:
    assert columns_of(STREAM, {"average": "cents"}) == Columns(
        ("count", "cents", "mean", "largest"), {"average": "cents"}
    )


@pytest.mark.parametrize(
    ("measures", "means"),
    [
        ((Measure("spread", "distribution", width=1.0),), {}),
        ((Measure("minute"),), {}),
        ((Measure("cents"),), {"late_share": "late"}),
        ((Measure("cents"),), {"cents": "cents"}),
    ],
    ids=["a distribution", "a name of the key", "a mean of nothing", "a mean by a measure's name"],
)
def test_what_cannot_be_compared_is_refused(measures: tuple[Measure, ...], means: dict[str, str]) -> None:
    with pytest.raises(TerminalError, match="cannot be compared"):
        columns_of(replace(STREAM, measures=measures), means)


def test_totals_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.sqlite", STREAM)
    minute = int(BEGIN.timestamp()) // 60
    store.write([Row("all", "", minute, 1, (1, 5, 5, 5))])
    path, _ = totals_file(STREAM, str(store.path), tmp_path, INTERVAL)
    assert pq.read_table(path)["cents"].to_pylist() == [5]
    store.write([Row("all", "", minute, 1, (1, 0.5, 0.5, 0.5))])
    with pytest.raises(TerminalError, match="cannot be compared") as fault:
        totals_file(STREAM, str(store.path), tmp_path, INTERVAL)
    assert "0.5" in str(fault.value.received)


def test_a_value_on_one_side_only_fails_its_rule_and_is_written_as_json(tmp_path: Path) -> None:
    figures = {"rows": 5, "missing": 0, "extra": 0, "largest_count": 0, "largest_cents": 0}
    rules = checks(figures | {"largest_largest": math.inf, "largest_mean_cents": 1e-10}, 0, COLUMNS)
    (failed,) = [check for check in rules if not check.passed]
    assert failed.name == "largest, largest difference" and "on one side only" in failed.note
    verdict = Verdict("close_stream", str(INTERVAL), rules)
    verdict.write(tmp_path)
    assert not Verdict.read(tmp_path).passed


@pytest.mark.slow
def test_a_value_on_one_side_only_is_a_difference(spark: Any, tmp_path: Path) -> None:
    fields = {"group": pa.string(), "key": pa.string(), "minute": pa.timestamp("us", tz="UTC")}
    schema = pa.schema(fields | dict.fromkeys(COLUMNS.totals, pa.int64()))

    def rows(*totals: tuple[int | None, ...]) -> pa.Table:
        made = [("all", f"k{number}", BEGIN, *of_key) for number, of_key in enumerate(totals)]
        return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in made], schema)

    def result(batch: pa.Table, stream: pa.Table) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        pq.write_table(batch, tmp_path / "batch.parquet")
        pq.write_table(stream, tmp_path / "stream.parquet")
        frame = spark.read.parquet(str(tmp_path / "batch.parquet"))
        figures, differing = compared(spark, frame, [str(tmp_path / "stream.parquet")], INTERVAL, COLUMNS)
        return figures, [(row["key"], row["kind"]) for row in differing.to_pylist()]

    stream = rows((3, 30, 20), (2, 10, None), (1, None, 7), (1, 4, 4))
    figures, differing = result(stream, stream)
    assert not differing and all(check.passed for check in checks(figures, 0, COLUMNS)), (
        "nothing on both sides is equal"
    )

    figures, differing = result(rows((3, 30, None), (2, 10, 6), (1, 8, 7), (1, 5, 4)), stream)
    assert differing == [(f"k{number}", "differing") for number in range(4)]
    failed = [check.name.partition(",")[0] for check in checks(figures, 0, COLUMNS) if not check.passed]
    assert failed == ["cents", "largest", "mean_cents"]
    assert figures["largest_largest"] == figures["largest_cents"] == figures["largest_mean_cents"] == math.inf

    # A stream that lacks a measure has none of its values.
    figures, differing = result(stream, stream.drop_columns(["cents"]))
    assert [key for key, _ in differing] == ["k0", "k1", "k3"]
    assert not Verdict("close_stream", "", checks(figures, 0, COLUMNS)).passed
