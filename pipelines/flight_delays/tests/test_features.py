"""The declaration of the features: whole, light, and said in words."""

from __future__ import annotations

import subprocess
import sys

from airtight.home import ROOT
from pipelines.flight_delays import features
from pipelines.flight_delays.features import ARRIVALS, DEPARTURES, OVERDUE, SCHEMA, WINDOWS, Window
from pipelines.flight_delays.lake import FLIGHTS, WEATHER


def test_every_feature_is_declared_once_and_described():
    assert len(set(SCHEMA.names)) == len(SCHEMA.names)
    for feature in SCHEMA.features:
        assert feature.description
        assert bool(feature.unit) == (feature.kind == "number"), feature.name
    assert set(SCHEMA.slices) <= {*SCHEMA.names, *SCHEMA.keys}
    assert not {*SCHEMA.names} & {*SCHEMA.keys, SCHEMA.label, SCHEMA.time}


def test_nothing_that_the_flight_itself_does_is_an_input():
    actual = {"departed_at", "arrived_at", "dep_delay", "arr_delay", "air_time", "month", "local_date", "flight_id"}
    assert not actual & set(SCHEMA.names)


def test_windows_and_overdue_counts_are_features():
    for window in WINDOWS:
        assert {window.feature(measure) for measure in window.measures} <= set(SCHEMA.names)
    for overdue in OVERDUE:
        assert {overdue.count, overdue.mean} <= set(SCHEMA.names)
    assert len({(w.stream, w.by, w.hours) for w in WINDOWS}) == len(WINDOWS)


def test_what_is_declared_is_in_the_lake():
    columns = set(FLIGHTS.schema.names)
    for stream in features.STREAMS:
        assert {stream.known_at, stream.delay} <= columns
    assert all(set(declared.by) <= columns for declared in (*WINDOWS, *OVERDUE))
    assert set(features.WEATHER) <= set(WEATHER.schema.names)


def test_names_tell_stream_measure_keys_and_length():
    assert (
        Window(DEPARTURES, ("origin", "carrier"), 2, ("count",)).feature("count")
        == "departures_count_origin_carrier_2h"
    )
    assert Window(ARRIVALS, (), 28 * 24, ()).feature("late_share") == "arrivals_late_share_all_28d"


def test_the_declaration_imports_nothing_heavy():
    code = "import sys, pipelines.flight_delays.features; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    heavy = {"tensorflow", "tfx", "pyspark", "apache_beam", "great_expectations", "pandas", "numpy", "pyarrow"}
    assert not heavy & set(done.stdout.split())
