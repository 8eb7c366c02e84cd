"""Spark's features against the reference, and against the future."""

from __future__ import annotations

import datetime
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.schema import LABEL_KNOWN_AT
from pipelines.flight_delays import clock, features
from pipelines.flight_delays.tests import odd_flights, reference
from pipelines.flight_delays.transform import transform

pytestmark = pytest.mark.slow

NEVER = 100_000.0


@pytest.fixture(scope="module")
def tables(flight_lake: Path) -> dict[str, pa.Table]:
    """Some days of the lake, as Arrow tables."""
    return odd_flights.tables(flight_lake)


def _spark_rows(spark, tables: dict[str, pa.Table], folder: Path) -> dict[str, dict]:
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    made = transform(lambda name: spark.read.parquet(str(folder / f"{name}.parquet")))
    return {row["flight_id"]: row for row in made.toArrow().to_pylist()}


@pytest.fixture(scope="module")
def made(spark, tables, tmp_path_factory) -> dict[str, dict]:
    """What Spark makes of these tables, by flight."""
    return _spark_rows(spark, tables, tmp_path_factory.mktemp("tables"))


def test_200_flights_equal_the_reference(tables, made):
    rows = {name: table.to_pylist() for name, table in tables.items()}
    sampled = odd_flights.sample(rows)
    expected = reference.Walk(**rows).features_of(sampled)
    assert len(expected) == odd_flights.SAMPLE
    differ = []
    for flight_id, answer in expected.items():
        assert set(answer) == set(features.SCHEMA.names)
        for feature in features.SCHEMA.features:
            here, there = (odd_flights.plain(row[feature.name], feature.kind) for row in (made[flight_id], answer))
            same = here == there or (feature.kind == "number" and math.isnan(here) and math.isnan(there))
            if not same:
                differ.append((flight_id, feature.name, here, there))
    assert not differ, differ[:10]
    # Were everything missing, it would be equal too.
    for name in features.SCHEMA.of_kind("number"):
        values = {answer[name] for answer in expected.values() if not math.isnan(answer[name])}
        assert len(values) > 1 or name == "plane_engines", name


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
