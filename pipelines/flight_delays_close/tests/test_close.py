"""Closing an interval of the stream: the batch side against the stream's own code, and how each difference is told."""

from __future__ import annotations

import json
import random
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airtight.errors import TerminalError
from airtight.interval import Interval
from airtight.verdict import Verdict
from components.close_stream import columns_of
from components.measures.closing import KEYS, checks, compared
from components.reports.closing import page
from pipelines.flight_delays.events import SCHEMA, Arrival, Departure
from pipelines.flight_delays.streams import STREAM, event_of
from pipelines.flight_delays_close.settings import MEANS
from streaming.windows.arithmetic import Minutes
from streaming.windows.sqlite_store import SqliteStore
from streaming.windows.store import Row

BEGIN = datetime(2013, 6, 14, 10, tzinfo=UTC)
COLUMNS = columns_of(STREAM, MEANS)
INTERVAL = Interval(BEGIN, BEGIN + timedelta(hours=2))
Rows = list[dict[str, Any]]


def flights(count: int = 300) -> Rows:
    """Around both ends of the interval; some never leave, some are diverted, some have no aircraft."""
    dice, made = random.Random(3), []
    for number in range(count):
        left = BEGIN + timedelta(seconds=dice.randrange(-3600, 3 * 3600))
        cancelled, diverted = number % 11 == 0, number % 13 == 0
        made.append(
            {
                "flight_id": f"2013-06-14/UA/{number}/EWR",
                "carrier": dice.choice(["UA", "AA"]),
                "flight": number % 5,
                "tailnum": None if number % 7 == 0 else f"N{number % 9}",
                "origin": dice.choice(["EWR", "JFK"]),
                "dest": dice.choice(["BOS", "ORD"]),
                "departed_at": None if cancelled else left,
                "dep_delay": None if cancelled else float(dice.randrange(-20, 90)),
                "arrived_at": None if cancelled else left + timedelta(minutes=50),
                "arr_delay": None if cancelled or diverted else float(dice.randrange(-20, 90)),
            }
        )
    # The ends themselves: the first instant is inside, the one after the last is not.
    made[1] |= {"departed_at": INTERVAL.start, "dep_delay": 16.0}
    made[2] |= {"departed_at": INTERVAL.end, "dep_delay": 15.0}
    return made


def minutes(rows: Rows) -> list[Row]:
    """What the stream makes of the same flights."""
    totals = Minutes(STREAM)
    for row in rows:
        same = {name: row[name] for name in ("flight_id", "carrier", "flight", "tailnum", "origin", "dest")}
        for kind, at, delay in ((Departure, "departed_at", "dep_delay"), (Arrival, "arrived_at", "arr_delay")):
            if row[at] is not None and INTERVAL.start <= row[at] < INTERVAL.end:
                whole = None if row[delay] is None else int(row[delay])
                totals.add(event_of(kind(schema=SCHEMA, at=row[at], delay=whole, **same)))
    return totals.rows()


def streamed(rows: Rows) -> Rows:
    """The same as rows of a table."""
    return [
        {
            "group": row.group,
            "key": row.key,
            "minute": datetime.fromtimestamp(row.start * 60, UTC),
            **dict(zip(COLUMNS.totals, row.totals, strict=True)),
        }
        for row in minutes(rows)
    ]


ARROW = pa.schema(
    {"group": pa.string(), "key": pa.string(), "minute": pa.timestamp("us", tz="UTC")}
    | dict.fromkeys(COLUMNS.totals, pa.int64())
)


def write(path: Path, rows: Rows) -> list[str]:
    pq.write_table(pa.Table.from_pylist(rows, ARROW), path)
    return [str(path)]


@pytest.mark.slow
def test_the_batch_is_what_the_stream_computes_and_what_is_not_is_told(spark: Any, tmp_path: Path) -> None:
    from pipelines.flight_delays_close.batch import totals

    rows = flights()
    schema = (
        "flight_id string, carrier string, flight int, tailnum string, origin string, dest string, "
        "departed_at timestamp, dep_delay double, arrived_at timestamp, arr_delay double"
    )
    names = [part.split()[0] for part in schema.split(", ")]
    frame = spark.createDataFrame([tuple(row[name] for name in names) for row in rows], schema)
    batch = totals(frame, INTERVAL.start, INTERVAL.end).cache()
    stream = streamed(rows)

    figures, differing = compared(spark, batch, write(tmp_path / "equal", stream), INTERVAL, COLUMNS)
    assert figures["rows"] == len(stream) > 500
    assert differing.num_rows == 0 and all(check.passed for check in checks(figures, 0, COLUMNS))

    before = {**stream[0], "minute": INTERVAL.start - timedelta(minutes=1)}
    figures, differing = compared(spark, batch, write(tmp_path / "beside", [*stream, before]), INTERVAL, COLUMNS)
    assert differing.num_rows == 0, "what is outside of the interval is nobody's concern"

    another = {**stream[1], "late": stream[1]["late"] + 1}
    extra = {**stream[2], "key": "XXX"}
    wrong = [*stream[2:], another, extra, stream[3]]
    figures, differing = compared(spark, batch, write(tmp_path / "wrong", wrong), INTERVAL, COLUMNS)
    assert (figures["missing"], figures["extra"], figures["differing"], figures["largest_late"]) == (1, 2, 1, 1)
    differences = {(row["kind"], *(row[name] for name in KEYS)) for row in differing.to_pylist()}
    expected = {"missing": stream[0], "differing": another}
    assert {(kind, *(row[name] for name in KEYS)) for kind, row in expected.items()} <= differences
    assert ("extra", *(extra[name] for name in KEYS)) in differences
    verdict = Verdict("close_stream", str(INTERVAL), checks(figures, 0, COLUMNS))
    assert [check.name for check in verdict.checks if not check.passed][:2] == ["missing", "extra"]
    text = page(verdict, {**figures, "hours": 2, "behind_minutes": 0}, differing.to_pylist())
    assert "not equal" in text and "XXX" in text

    figures, differing = compared(spark, batch, [], INTERVAL, COLUMNS)
    assert figures["missing"] == len(stream) == differing.num_rows


@pytest.mark.slow
def test_the_node_records_what_it_decides_and_fails_only_where_it_cannot_compare(spark: Any, tmp_path: Path) -> None:
    from components.artifacts import StreamClosing
    from components.close_stream import close_stream
    from components.data.lake import Lake
    from pipelines.flight_delays.lake import FLIGHTS

    rows, days = flights(), [date(2013, 6, 13) + timedelta(days=n) for n in range(3)]
    for number, row in enumerate(rows):
        # Flights of the day before and after are known in the interval, too.
        noon = datetime.combine(days[number % 3], time(16), UTC)
        row |= {"scheduled_departure": noon, "scheduled_arrival": noon, "local_date": days[number % 3]}
    by_day = {day: pa.Table.from_pylist([r for r in rows if r["local_date"] == day], FLIGHTS.schema) for day in days}
    Lake(tmp_path / "lake").write("flights", by_day)
    store = SqliteStore(tmp_path / "store.sqlite", STREAM)
    store.write(minutes(rows))
    end = int(INTERVAL.end.timestamp()) // 60
    store.advance(end)

    def close(**other: str) -> StreamClosing:
        closing = StreamClosing()
        closing.uri = str(tmp_path / f"closing-{len(list(tmp_path.iterdir()))}")
        ends = {"interval_start": INTERVAL.start.isoformat(), "interval_end": INTERVAL.end.isoformat()}
        settings = {
            **{"tables": "pipelines.flight_delays.lake:TABLES", "table": "flights", "zone": "America/New_York"},
            "recompute": "pipelines.flight_delays_close.batch:totals",
            **{"lake": str(tmp_path / "lake"), "stream": "flight_delays", "store": str(store.path)},
            "means": json.dumps(MEANS),
        }
        close_stream.EXECUTOR_SPEC.executor_class._FUNCTION(closing=closing, **{**settings, **ends, **other})
        return closing

    closed = close()
    assert (closed.equal, closed.missing, closed.extra, closed.differing) == (1, 0, 0, 0)
    assert closed.rows == len(streamed(rows))
    assert Verdict.read(Path(closed.uri)).passed and (Path(closed.uri) / "report.html").is_file()

    (file,) = (tmp_path / "lake" / "stream" / "flight_delays").iterdir()
    assert file.name == "2013-06-14T10_2013-06-14T12.parquet"
    assert pq.read_metadata(file).num_rows == closed.rows

    store = SqliteStore(tmp_path / "other.sqlite", STREAM)
    store.write([row for row in minutes(rows) if row.start < end - 60])
    store.advance(end - 60)
    closed = close()
    assert (closed.equal, closed.extra) == (0, 0) and closed.missing > 100
    assert "60 minutes before the interval's end" in Verdict.read(Path(closed.uri)).checks[0].note
    assert pq.read_metadata(Path(closed.uri) / "differences.parquet").num_rows == closed.missing

    with pytest.raises(TerminalError, match="closed by whole hours"):
        close(interval_end="2013-06-14T11:30:00+00:00")
    with pytest.raises(TerminalError, match="not all flights of the interval yet"):
        close(interval_end="2013-06-17T11:00:00+00:00")


def test_the_rules_tell_what_is_wrong_and_how_far_the_stream_is_behind() -> None:
    figures = {"rows": 5, "missing": 2, "extra": 0, **{f"largest_{name}": 0 for name in COLUMNS.totals}}
    means = {"largest_mean_delay": 1e-10, "largest_late_share": 1e-8}
    by_name = {check.name: check for check in checks(figures | means, 90, COLUMNS)}
    assert not by_name["missing"].passed and "90 minutes before" in by_name["missing"].note
    assert by_name["extra"].passed and by_name["mean_delay, largest difference"].passed
    assert not by_name["late_share, largest difference"].passed


@pytest.mark.slow
def test_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airtight.home import Home
    from plugins.tfx_airflow import TfxDag
    from runtime.compile import compile_pipeline

    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    compile_pipeline("flight_delays_close", Home.current())
    dag = TfxDag("flight_delays_close", schedule=None)
    assert [task.task_id for task in dag.tasks] == ["close_stream"]
    assert "interval" in dag.params and "use_cache" not in dag.params
