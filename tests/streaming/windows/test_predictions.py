"""Windows over the prediction log, against a count by hand."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.flight_delays.streams import PREDICTIONS
from streaming.run import in_process
from streaming.windows.messages import BadMessage, Message, read
from streaming.windows.pipeline import build, messages_of
from streaming.windows.predictions import LATENCY_RATIO, parse, prediction_log
from streaming.windows.sqlite_store import SqliteStore
from streaming.windows.store import Reader, Row

BEGIN = datetime(2013, 6, 1, 10, tzinfo=UTC)


def a_log(hours: float, number: int, seed: int = 0) -> list[dict[str, Any]]:
    dice, rows = random.Random(seed), []
    for place in range(number):
        answer = {
            "time": (BEGIN + timedelta(hours=hours) * place / number).isoformat(),
            "model": "flight_delays",
            "version": dice.choice([1, 2, None]),
            "code": dice.choice(["OK", "OK", "OK", "INVALID_ARGUMENT"]),
            "latency_ms": dice.uniform(1, 100),
            "sampling_rate": 0.5,
            "inputs": {"carrier": "UA"},
        }
        rows += [
            {**answer, "row": row, "outputs": {"probability": dice.random()}} for row in range(dice.choice([1, 3]))
        ]
    return rows


def stamp(row: dict[str, Any]) -> float:
    return datetime.fromisoformat(row["time"]).timestamp()


def by_hand(rows: list[dict[str, Any]], window: Row) -> list[dict[str, Any]]:
    return [
        row
        for row in rows
        if window.start <= stamp(row) / 60 < window.start + window.minutes
        and window.key == f"flight_delays|{row['version'] or 0}"
    ]


def check(values: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    first = [row for row in rows if row["row"] == 0]
    assert (values["count"], values["requests"]) == (len(rows), 2 * len(first))
    assert values["refused"] == 2 * sum(row["code"] != "OK" for row in first)
    scores = [row["outputs"]["probability"] for row in rows]
    assert values["scored"] == len(scores)
    assert values["scores"] == pytest.approx(sum(scores))
    counts = {round(end * 20): number for end, number in values["score"]["parts"]}
    assert counts == {part: n for part in range(1, 21) if (n := 2 * sum(int(s * 20) + 1 == part for s in scores))}
    latencies = sorted(row["latency_ms"] for row in first)
    if latencies:
        median = latencies[-(-len(latencies) // 2) - 1]
        assert median <= values["latency_ms"]["p50"] <= median * LATENCY_RATIO
    assert sum(number for _, number in values["latency_ms"]["parts"]) == 2 * len(latencies)


def test_equal_to_a_count_by_hand(tmp_path: Path) -> None:
    rows, path = a_log(hours=2, number=400), tmp_path / "store.sqlite"
    messages = [Message(b"", json.dumps(row).encode(), round(stamp(row) * 1000)) for row in rows]
    bad = [Message(b"", value, messages[-1].published_ms) for value in (b"", b"{}", b"[1]")]
    in_process(build(PREDICTIONS, messages_of([*messages, *bad]), str(path), follow=False))
    store = SqliteStore(path, PREDICTIONS)
    for minutes, times in ((1, 1), (5, 1), (60, 12)):
        windows = store.rows(minutes)
        assert sum(window.totals[0] for window in windows) == times * len(rows)
        for window in windows:
            check(PREDICTIONS.values_of(window.totals), by_hand(rows, window))
    reader, end = Reader(store, PREDICTIONS), BEGIN + timedelta(minutes=90)
    values = reader.last_minutes("version", "flight_delays|1", 47, end.timestamp())
    check(values, by_hand(rows, Row("", "flight_delays|1", int(end.timestamp()) // 60 - 47, 47, ())))


@pytest.mark.parametrize(
    ("score", "width", "output", "expected"),
    [
        ("probabilities", 0.05, [0.1, 0.7, 0.2], (1 + 0.7) / 3),
        ("probabilities", 0.05, [0.0, 0.0, 1.0], 1.0),
        ("probabilities", 0.05, [0.5, 0.7], None),
        ("prediction", 20.0, 512.5, 512.5),
        ("prediction", 20.0, "512", None),
    ],
)
def test_scores_of_every_task_are_counted(tmp_path: Path, score, width, output, expected) -> None:
    stream = prediction_log("scores", "scores", "letters", score, width)
    row = {**a_log(1, 1)[0], "outputs": {score: output, "class": "good"}}
    messages = messages_of([Message(b"", json.dumps(row).encode(), round(stamp(row) * 1000))])
    in_process(build(stream, messages, str(tmp_path / "store.sqlite"), follow=False))
    (window,) = SqliteStore(tmp_path / "store.sqlite", stream).rows(1)
    values = stream.values_of(window.totals)
    assert (values["count"], values["scored"]) == (1, expected is not None)
    assert values["scores"] == pytest.approx(expected or 0, abs=1e-5)
    ends = [end for end, _ in values["score"]["parts"]]
    assert ends == ([] if expected is None else [pytest.approx(-(-expected // width) * width)])


def test_what_is_no_row_is_bad_and_other_outputs_are_passed_over() -> None:
    row = {**a_log(1, 1)[0], "outputs": {"probability": [0.5], "other": float("nan")}, "sampling_rate": 0}
    event = parse(Message(b"", json.dumps(row).replace("NaN", "1").encode(), 0))
    assert event.values["weight"] == 1.0
    assert not {name for name in event.values if name.endswith("_probability")}
    with pytest.raises(BadMessage, match="wrong schema"):
        parse(Message(b"", b'{"model": 5}', 0))
    for poison in ({"outputs": {"probability": 10**400}}, {"sampling_rate": 1e-300}):
        with pytest.raises(BadMessage):
            read(parse, PREDICTIONS, Message(b"", json.dumps({**row, **poison}).replace("NaN", "1").encode(), 0))
