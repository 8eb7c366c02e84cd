"""Windows over the prediction log, against a count by hand."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airtight.home import Home
from pipelines.flight_delays import stream
from streaming import run
from streaming.accounts import Accounts
from streaming.prediction_windows import LATENCY_STEP
from streaming.reader import Source
from streaming.window_rows import WindowRow, WindowRows, WriteWindowRows
from tests.streaming.fake_kafka import Broker, settings

BEGIN = datetime(2013, 6, 1, 10, tzinfo=UTC)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    yield Broker(str(tmp_path), partitions=1)
    del Broker.all[str(tmp_path)]


@pytest.fixture
def source(broker: Broker, tmp_path: Path) -> Source:
    return stream.predictions_source(Home.current(), servers=str(tmp_path), **settings())


def a_log(hours: float, number: int, seed: int = 0) -> list[dict[str, Any]]:
    dice, rows = random.Random(seed), []
    for each in range(number):
        at = BEGIN + timedelta(hours=hours) * each / number
        told = {
            "time": at.isoformat(),
            "model": "flight_delays",
            "version": dice.choice([1, 2, None]),
            "code": dice.choice(["OK", "OK", "OK", "INVALID_ARGUMENT"]),
            "latency_ms": dice.uniform(1, 100),
            "sampling_rate": 0.5,
            "inputs": {"carrier": "UA"},
        }
        rows += [{**told, "row": row, "outputs": {"probability": dice.random()}} for row in range(dice.choice([1, 3]))]
    return rows


def publish(broker: Broker, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        at = int(datetime.fromisoformat(row["time"]).timestamp() * 1000)
        broker.add(0, at, json.dumps(row).encode())


def read(source: Source) -> dict[str, list[WindowRow]]:
    run.in_process(stream.from_predictions(source, Home.current(), to_end=True))
    held = WindowRows(stream.prediction_rows_of(Home.current()))
    return {name: held.rows(name) for name in ("fixed", "sliding")}


def by_hand(rows: list[dict[str, Any]], window: WindowRow) -> list[dict[str, Any]]:
    return [
        row
        for row in rows
        if window.start <= datetime.fromisoformat(row["time"]).timestamp() < window.start + window.seconds
        and window.key == f"flight_delays/{row['version'] or 0}"
    ]


def test_equal_to_a_count_by_hand(broker: Broker, source: Source) -> None:
    rows = a_log(hours=2, number=400)
    publish(broker, rows)
    made = read(source)
    assert {window.seconds for window in made["fixed"]} == {300}
    assert {window.seconds for window in made["sliding"]} == {3600}
    for window in (*made["fixed"], *made["sliding"]):
        held, told = by_hand(rows, window), window.told
        first = [row for row in held if row["row"] == 0]
        assert told["rows"] == window.messages == len(held)
        assert told["requests"] == 2 * len(first)
        assert told["refused"] == 2 * sum(row["code"] != "OK" for row in first)
        scores = [row["outputs"]["probability"] for row in held]
        assert told["mean_score"] == pytest.approx(sum(scores) / len(scores))
        assert told["scores"] == [2 * sum(int(score * 20) == part for score in scores) for part in range(20)]
        latencies = sorted(row["latency_ms"] for row in first)
        median = latencies[-(-len(latencies) // 2) - 1]
        assert median <= told["latency_p50_ms"] <= median * LATENCY_STEP
    assert sum(window.messages for window in made["fixed"]) == len(rows)
    assert sum(window.messages for window in made["sliding"]) == 12 * len(rows)


def test_begun_again_the_windows_grow_and_none_shrinks(broker: Broker, source: Source) -> None:
    rows = a_log(hours=6, number=600)
    for part in range(0, len(rows), 400):
        publish(broker, rows[part : part + 400])
        made = read(source)
    for window in (*made["fixed"], *made["sliding"]):
        assert window.messages == len(by_hand(rows, window))
    standing = Accounts(source.accounts).standing()
    assert standing.run == -(-len(rows) // 400) and min(standing.undone) > int(BEGIN.timestamp()) // 3600


def test_what_is_no_row_is_set_aside(broker: Broker, source: Source) -> None:
    rows = a_log(hours=1, number=20)
    publish(broker, rows)
    for value in (None, b"", b"{}", b"[1]"):
        broker.add(0, int(BEGIN.timestamp() * 1000), value)
    made = read(source)
    assert sum(window.messages for window in made["fixed"]) == len(rows)
    assert len(broker.dead) == 4


def test_a_row_of_fewer_messages_is_passed_over(tmp_path: Path) -> None:
    rows = WindowRows(tmp_path / "rows.sqlite")
    assert rows.put(WindowRow("fixed", "m/1", 0, 300, 5, {"rows": 5}))
    assert not rows.put(WindowRow("fixed", "m/1", 0, 300, 4, {"rows": 4}))
    assert rows.put(WindowRow("fixed", "m/1", 0, 300, 5, {"rows": 5}))
    assert [row.told for row in rows.rows("fixed")] == [{"rows": 5}]
    rows.forget(1)
    assert rows.rows("fixed") == []


def test_windows_that_are_old_are_forgotten_when_a_day_begins(tmp_path: Path) -> None:
    path, day = tmp_path / "rows.sqlite", 86_400
    sink = WriteWindowRows(path, None, keep_days=2)._write
    sink.setup()
    for start in (0, day - 300, day, 3 * day - 300, 3 * day):
        assert list(sink.process(WindowRow("fixed", "m/1", start, 300, 1, {}))) == [True]
    assert [row.start for row in WindowRows(path).rows("fixed")] == [day, 3 * day - 300, 3 * day]
    sink.teardown()
