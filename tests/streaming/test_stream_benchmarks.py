"""What the benchmarks of the stream judge by: made-up events, differences of two stores, and what has grown."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from benchmarks import stream_kills, stream_runs, stream_soak
from benchmarks.spark_stream import WHOLE
from pipelines.flight_delays.events import encode, key
from pipelines.flight_delays.streams import STREAM, parse
from streaming.windows.arithmetic import Minutes
from streaming.windows.messages import Message, read
from streaming.windows.sqlite_store import SqliteStore


def test_made_up_events_are_read_and_count_once() -> None:
    events = [*islice(stream_runs.movements(1800), 100)]
    assert [(event.at - stream_runs.BEGIN).total_seconds() for event in events[:3]] == [0, 2, 4]
    assert len({(type(event), event.flight_id) for event in events}) == 100
    minutes = Minutes(STREAM)
    for event in events:
        message = Message(key(event), encode(event), round(event.at.timestamp() * 1000))
        minutes.add(read(parse, STREAM, message))
    assert sum(row.totals[0] for row in minutes.rows() if row.group in WHOLE) == 100


def test_events_of_a_store_are_counted_and_two_stores_are_told_apart(tmp_path: Path) -> None:
    minutes = Minutes(STREAM)
    for event in islice(stream_runs.movements(600), 50):
        minutes.add(parse(Message(b"", encode(event), 0)))
    paths = [tmp_path / "one.sqlite", tmp_path / "other.sqlite"]
    assert stream_runs.counted(STREAM, paths[0]) == 0, "there is none"
    for path in paths:
        SqliteStore(path, STREAM).write(minutes.rows())
        assert stream_runs.counted(STREAM, path) == 50
    assert stream_kills.rows_of(paths[0], STREAM) == len(minutes.rows())
    table = f"totals_{STREAM.name}"
    assert table in stream_kills.differences(*paths)
    assert not any(stream_kills.differences(*paths).values())
    (row, *_) = minutes.rows()
    SqliteStore(paths[1], STREAM).write([row._replace(totals=(row.totals[0] + 1, *row.totals[1:]))])
    assert stream_kills.differences(*paths)[table] == 2, "one of each"


def test_what_grows_is_seen_behind_the_saw_of_a_heap() -> None:
    samples = [
        {"minutes": n, "busy": 1.0, "saw": 100.0 + 300 * (n % 10), "leak": 100.0 + n, "store": 5.0 * n}
        for n in range(120)
    ]
    flat = {row["what"]: row["flat"] for row in stream_soak.growth(samples)}
    assert flat == {"saw": True, "leak": False, "store": True}


def test_percentiles_and_tables() -> None:
    assert stream_runs.percentiles([]) == {"p50_s": None, "p99_s": None, "max_s": None}
    assert stream_runs.percentiles(range(100)) == {"p50_s": 50, "p99_s": 99, "max_s": 99}
    text = stream_runs.table([{"killed": "broker", "times": 1234567, "s": 1.23456}, {"killed": "all", "times": None}])
    assert text.splitlines()[2:] == ["| broker | 1,234,567 | 1.23 |", "| all | - | - |"]
