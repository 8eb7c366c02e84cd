"""Spark's features against the reference, and against the future."""

from __future__ import annotations

import datetime
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from components.schema import LABEL_KNOWN_AT
from pipelines.flight_delays import clock, features
from pipelines.flight_delays.tests import reference
from pipelines.flight_delays.transform import transform

pytestmark = pytest.mark.slow

DAYS = [
    *("2013-01-01", "2013-01-02"),
    "2013-02-12",  # a wind of 1,048 miles per hour was read
    *("2013-03-09", "2013-03-10"),  # daylight saving starts
    *("2013-06-12", "2013-06-13"),  # thunderstorms
    *("2013-11-02", "2013-11-03"),  # daylight saving ends
]
LONG_RECORD = (("VX", "HA"), "2013-07-01", "2013-09-01")
"""Two small carriers over two months, so that windows of 28 days fill and empty."""
SAMPLE = 200
NEVER = 100_000.0


@pytest.fixture(scope="module")
def tables(flight_lake: Path) -> dict[str, pa.Table]:
    """Some days of the lake, as Arrow tables."""
    whole = {
        name: pa.dataset.dataset(flight_lake / name, format="parquet", exclude_invalid_files=True).to_table()
        for name in ("flights", "weather", "planes")
    }
    date = pc.strftime(whole["flights"]["local_date"], format="%Y-%m-%d")
    carriers, first, after = LONG_RECORD
    record = pc.and_(
        pc.is_in(whole["flights"]["carrier"], pa.array(carriers)),
        pc.and_(pc.greater_equal(date, first), pc.less(date, after)),
    )
    some = pc.or_(pc.is_in(date, pa.array(DAYS)), record)
    return {**whole, "flights": whole["flights"].filter(some)}


def _spark_rows(spark, tables: dict[str, pa.Table], folder: Path) -> dict[str, dict]:
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    made = transform(lambda name: spark.read.parquet(str(folder / f"{name}.parquet")))
    return {row["flight_id"]: row for row in made.toArrow().to_pylist()}


def _plain(value: object, kind: str) -> str | float:
    """A feature as the examples keep it."""
    return (value or "") if kind == "category" else reference.as_float32(value)


@pytest.fixture(scope="module")
def made(spark, tables, tmp_path_factory) -> dict[str, dict]:
    """What Spark makes of these tables, by flight."""
    return _spark_rows(spark, tables, tmp_path_factory.mktemp("tables"))


def _sample(rows: dict[str, list[dict]]) -> set[str]:
    """200 flights: some of each odd kind, and the rest at random."""
    dice = random.Random(20130613)
    flights = sorted(rows["flights"], key=lambda flight: (flight["scheduled_departure"], flight["flight_id"]))
    planes = {plane["tailnum"] for plane in rows["planes"]}
    limit = features.WIND_SPEED_LIMIT_MPH
    gales = {(row["origin"], row["observed_at"]) for row in rows["weather"] if (row["wind_speed"] or 0) > limit}
    kinds = {
        "first of the year": flights[:10],
        "daylight saving": [f for f in flights if str(f["local_date"]) in ("2013-03-10", "2013-11-03")],
        "around midnight": [f for f in flights if f["local_minute"] > 23 * 60 or f["local_minute"] < 6 * 60],
        "no tail number": [f for f in flights if f["tailnum"] is None],
        "unknown plane": [f for f in flights if f["tailnum"] and f["tailnum"] not in planes],
        "impossible wind": [f for f in flights if (f["origin"], clock.weather_hour(f["scheduled_departure"])) in gales],
        "cancelled": [f for f in flights if f["departed_at"] is None],
        "long record": [f for f in flights if f["carrier"] in LONG_RECORD[0] and f["local_date"].month == 8],
    }
    chosen: set[str] = set()
    for name, kind in kinds.items():
        assert kind, name
        chosen |= {flight["flight_id"] for flight in dice.sample(kind, min(10, len(kind)))}
    rest = [flight["flight_id"] for flight in flights if flight["flight_id"] not in chosen]
    return chosen | set(dice.sample(rest, SAMPLE - len(chosen)))


def test_200_flights_equal_the_reference(tables, made):
    rows = {name: table.to_pylist() for name, table in tables.items()}
    asked = _sample(rows)
    expected = reference.Walk(**rows).features_of(asked)
    assert len(expected) == SAMPLE
    differ = []
    for flight_id, answer in expected.items():
        assert set(answer) == set(features.SCHEMA.names)
        for feature in features.SCHEMA.features:
            here, there = (_plain(row[feature.name], feature.kind) for row in (made[flight_id], answer))
            same = here == there or (feature.kind == "number" and math.isnan(here) and math.isnan(there))
            if not same:
                differ.append((flight_id, feature.name, here, there))
    assert not differ, differ[:10]
    # Were everything missing, it would be equal too.
    for name in features.SCHEMA.of_kind("number"):
        told = {answer[name] for answer in expected.values() if not math.isnan(answer[name])}
        assert len(told) > 1 or name == "plane_engines", name


def test_labels_are_those_of_the_lake(tables, made):
    for flight in tables["flights"].to_pylist():
        row = made[flight["flight_id"]]
        delay = flight["arr_delay"]
        assert row[features.SCHEMA.label] == (None if delay is None else int(delay > 15))
        assert row[LABEL_KNOWN_AT] == (None if delay is None else flight["arrived_at"])
    assert len(made) == tables["flights"].num_rows


NOW = datetime.datetime(2013, 6, 13, 16, 10, tzinfo=datetime.UTC)
"""In the midst of a day of thunderstorms."""


def _with_an_absurd_future(tables: dict[str, pa.Table]) -> dict[str, pa.Table]:
    """The same tables, but nothing that happens at NOW or later is as it was."""
    flights = tables["flights"].to_pylist()
    dice = random.Random(1)
    for flight in flights:
        for at, delay in (("departed_at", "dep_delay"), ("arrived_at", "arr_delay")):
            if flight[at] is not None and flight[at] >= NOW:
                gone = dice.random() < 0.3
                flight[delay] = None if gone else NEVER
                flight[at] = None if gone else flight[at] + datetime.timedelta(minutes=dice.randrange(600))
    weather = tables["weather"].to_pylist()
    for row in weather:
        # Stamped with an hour, taken within it, known when it is over.
        if row["observed_at"] + clock.WEATHER_LAG > NOW:
            row.update(temp=-NEVER, wind_speed=77.0, visib=NEVER)
    of = {"flights": flights, "weather": weather}
    return {**tables, **{name: pa.Table.from_pylist(rows, tables[name].schema) for name, rows in of.items()}}


def test_what_happens_after_the_cutoff_changes_no_feature(spark, tables, made, tmp_path):
    absurd = _spark_rows(spark, _with_an_absurd_future(tables), tmp_path)
    cutoffs = {f["flight_id"]: clock.cutoff(f["scheduled_departure"]) for f in tables["flights"].to_pylist()}

    def differs(flight_id: str) -> list[str]:
        old, new = made[flight_id], absurd[flight_id]
        # As text, so that missing equals missing.
        return [f.name for f in features.SCHEMA.features if str(old[f.name]) != str(new[f.name])]

    leaked = {flight_id: differs(flight_id) for flight_id, cutoff in cutoffs.items() if cutoff <= NOW}
    leaked = {flight_id: names for flight_id, names in leaked.items() if names}
    assert not leaked, list(leaked.items())[:5]
    # The plant is seen by those who may see it: otherwise this test could not fail.
    soon = {flight_id for flight_id, cutoff in cutoffs.items() if NOW < cutoff <= NOW + datetime.timedelta(hours=12)}
    seen = {name for flight_id in soon for name in differs(flight_id)}
    recent = {
        window.feature(measure) for window in features.WINDOWS if window.hours <= 3 for measure in window.measures
    }
    assert recent | {"temp", "visib", "wind_speed", "tail_departure_delay", "tail_previous_delay", "tail_slack"} <= seen
    assert {overdue.count for overdue in features.OVERDUE} <= seen
