"""What benchmarks.stream_parity compares with: it finds a missing, an extra and a different window."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from airtight.interval import Interval
from benchmarks import stream_parity
from pipelines.flight_delays import facts, features, windows
from pipelines.flight_delays.events import SCHEMA, Arrival, Departure, encode
from streaming.queries import Sum
from streaming.sink import write_parquet
from streaming.sorting import Batch
from streaming.store import SqliteStore

BEGIN = datetime(2013, 6, 14, 10, tzinfo=UTC)
WINDOW = features.WINDOWS[1]  # With all three measures.


def of(flight: str, count: int, late: float | None, mean: float | None) -> dict[str, dict[str, Any]]:
    answers = {"count": count, "late_share": late, "mean_delay": mean}
    return {flight: {WINDOW.feature(measure): value for measure, value in answers.items()}}


def test_a_window_that_is_missing_extra_or_different_is_found() -> None:
    batch = of("a", 4, 0.25, 7.0) | of("b", 0, None, None)
    nothing = of("b", 0, math.nan, math.nan)
    same = of("a", 4, 0.25, 7.0 + 1e-10) | nothing
    found = stream_parity.beside(WINDOW, batch, same)
    assert found.equal and (found.windows, found.missing, found.extra) == (2, 0, 0)

    lacking = stream_parity.beside(WINDOW, batch, of("a", 0, math.nan, math.nan) | nothing)
    assert (lacking.missing, lacking.extra, lacking.count, lacking.equal) == (1, 0, 4, False)
    assert stream_parity.beside(WINDOW, batch, nothing).missing == 1, "a flight that is not there"

    extra = stream_parity.beside(WINDOW, batch, same | of("b", 1, 0.0, 3.0) | of("c", 0, None, None))
    assert (extra.windows, extra.missing, extra.extra, extra.count, extra.equal) == (3, 0, 2, 1, False)

    wrong = stream_parity.beside(WINDOW, batch, same | of("a", 5, 0.25, 7.0 + 1e-8))
    assert (wrong.missing, wrong.extra, wrong.count, wrong.equal) == (0, 0, 1, False)
    assert 0.9e-8 < wrong.mean < 1.1e-8 and not stream_parity.Found(1, mean=wrong.mean).equal

    found.add(lacking)
    assert (found.windows, found.missing, found.count, found.equal) == (4, 1, 4, False)
    assert not stream_parity.Found().equal, "nothing was compared"


def test_what_the_stream_wrote_is_summed_as_the_store_does(tmp_path: Path) -> None:
    told = []
    for number in range(90):
        same = {"flight_id": f"f{number}", "carrier": "UA", "flight": number % 3, "tailnum": "N1", "dest": "ORD"}
        kind, at = (Departure, Arrival)[number % 2], BEGIN + timedelta(minutes=number)
        told.append(kind(schema=SCHEMA, at=at, delay=number, origin=("EWR", "JFK")[number % 3 == 0], **same))
    first = int(BEGIN.timestamp()) // 3600
    for hour, some in enumerate((told[:60], told[60:])):
        batch = Batch(
            list(range(len(some))), [int(event.at.timestamp() * 1000) for event in some], list(map(encode, some))
        )
        made = windows.gathered(first + hour, [batch], over=True)
        totals = tuple(made.moved.totals(group) for group in features.GROUPS)
        assert write_parquet(tmp_path / "totals", replace(made, totals=totals))
    store = SqliteStore(tmp_path / "online.sqlite", facts.TABLES)
    stream_parity.fill(store, tmp_path / "totals", Interval(BEGIN, BEGIN + timedelta(hours=2)))
    assert [store.messages(first + hour) for hour in range(3)] == [60, 30, 0]
    begin = first * 60
    assert store.freshest() == begin + 120
    of_newark = [number for number in range(20, 80, 2) if number % 3]
    expected = len(of_newark), sum(number > features.LATE_MINUTES for number in of_newark), sum(of_newark)
    assert store.read([Sum("departures_origin", "EWR", begin + 20, begin + 80)]) == [expected]
    arrived = [number for number in range(1, 90, 2) if number % 3 == 2]
    expected = len(arrived), sum(number > features.LATE_MINUTES for number in arrived), sum(arrived)
    assert store.read([Sum("arrivals_carrier_flight", "UA|2", begin, begin + 120)]) == [expected]


def test_the_months_of_a_span() -> None:
    parts = stream_parity.months(date(2013, 1, 30), date(2013, 4, 1))
    assert [stream_parity.name_of(part) for part in parts] == ["2013-01", "2013-02", "2013-03"]
    assert parts[0].start == datetime(2013, 1, 30, 5, tzinfo=UTC)
    assert parts[-1].end == datetime(2013, 4, 1, 4, tzinfo=UTC), "summer time"
    assert [one.end for one in parts[:-1]] == [two.start for two in parts[1:]]
