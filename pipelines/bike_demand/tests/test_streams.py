"""The stream of bike_demand over its lake, against pandas."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa
import pytest

from components.data.lake import Lake
from pipelines.bike_demand import lake
from pipelines.bike_demand.streams import STREAM, Reading, messages, parse
from streaming.run import in_process
from streaming.windows.messages import BadMessage, Message, read
from streaming.windows.pipeline import build, messages_of
from streaming.windows.sqlite_store import SqliteStore
from streaming.windows.store import Reader

BEGIN, END = datetime(2013, 3, 8, 5, tzinfo=UTC), datetime(2013, 3, 12, 4, tzinfo=UTC)
"""Four days by the clock; in their middle it goes forward."""


def _filled(path: Path) -> pd.DataFrame:
    """Eight days in a lake."""
    clock = pd.date_range("2013-03-06", "2013-03-13 23:00", freq="h")
    source = pd.DataFrame({"ts": clock.strftime("%Y-%m-%d %H:%M:%S"), "count": range(7, 7 + len(clock))})
    rows = lake.hours(source)
    days = rows.groupby(rows.hour.str[:10])
    tables = {
        datetime.fromisoformat(day).date(): pa.Table.from_pandas(part, lake.RIDES.schema, preserve_index=False)
        for day, part in days
    }
    Lake(path).write("rides", tables)
    return rows[(rows.ends_at >= BEGIN) & (rows.ends_at < END)]


def test_totals_of_the_lake_are_those_of_pandas(tmp_path: Path) -> None:
    rows = _filled(tmp_path / "lake").reset_index(drop=True)
    published = list(messages(tmp_path / "lake", BEGIN, END))
    assert len(published) == len(rows) == 96
    # An hour is counted anew, and published the next morning.
    reading = msgspec.json.decode(published[10].value) | {"rides": 1000}
    stamp = published[10].published_ms + 8 * 3_600_000
    published.append(Message(published[10].key, msgspec.json.encode(reading), stamp))
    rows.loc[10, "rides"] = 1000
    path = tmp_path / "store.sqlite"
    in_process(build(STREAM, messages_of(published), str(path), follow=False))

    store = SqliteStore(path, STREAM)
    reader = Reader(store, STREAM)
    end = END.timestamp()
    assert store.watermark() == int(rows.ends_at.max().timestamp()) // 60 + 1
    for hours in (3, 24, 168):
        part = rows[rows.ends_at >= END - pd.Timedelta(hours=hours)].rides
        assert reader.last_minutes("all", "", hours * 60, end) == {
            "count": len(part),
            "rides": part.sum(),
            "mean_rides": part.mean(),
            "most_rides": part.max(),
            "behind_minutes": 29,
            "lost_minutes": 0,
        }
    clock = pd.to_datetime(rows.hour)
    for (weekday, hour), part in rows.rides.groupby([clock.dt.weekday, clock.dt.hour]):
        known = reader.last_minutes("weekday_hour", f"{weekday}|{hour}", 10 * 24 * 60, end)
        assert (known["count"], known["rides"], known["most_rides"]) == (len(part), part.sum(), part.max())
    by_day = rows.groupby(rows.ends_at.dt.floor("D").rename("day")).rides.agg(["count", "sum", "max"])
    days = [(row.start, *row.totals) for row in store.windows("all", "", 1440, 0, 1 << 40)]
    assert days == [
        (int(day.timestamp()) // 60, count, total, total, most) for day, count, total, most in by_day.itertuples()
    ]


@pytest.mark.parametrize("wrong", [{"hour": "13h"}, {"rides": 10**30}, {"rides": 9_300_000_000_000_000_000}])
def test_a_reading_that_makes_no_sense_is_a_bad_message(wrong: dict[str, object]) -> None:
    reading = {"schema": 1, "hour": "2013-03-08T05", "ends_at": BEGIN.isoformat(), "rides": 1, **wrong}
    with pytest.raises(BadMessage):
        read(parse, STREAM, Message(b"", msgspec.json.encode(reading), round(BEGIN.timestamp() * 1000)))


def test_an_hour_that_is_none_is_a_dead_letter_with_its_column() -> None:
    reading = msgspec.json.encode(Reading(1, "8 o'clock", END, 5))
    with pytest.raises(BadMessage, match=r"wrong schema: hour: .*8 o'clock"):
        parse(Message(b"", reading, 0))
