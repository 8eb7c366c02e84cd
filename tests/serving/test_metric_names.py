"""Metrics of every part: TensorFlow Serving's under its names, ours under Prometheus' conventions."""

from __future__ import annotations

import re

from serving import metrics
from serving.metrics import Counter, Histogram
from serving.prediction_log import writer
from serving.router import metrics as of_router

OURS = re.compile(r"airtight_(serving|router)(_[a-z]+)+")
THEIRS = re.compile(r":tensorflow:(serving|cc):[a-z_:]+")


def test_names_say_part_thing_and_base_unit():
    assert writer.ROWS in metrics.METRICS
    for metric in metrics.METRICS:
        if THEIRS.fullmatch(metric.name):
            continue
        assert OURS.fullmatch(metric.name), metric.name
        assert metric.name.endswith("_total" if isinstance(metric, Counter) else metrics.SECONDS), metric.name
        assert not re.search(r"_(us|ms|count)\b", metric.name)
    names = [metric.name for metric in metrics.METRICS]
    assert len(set(names)) == len(names)


def test_every_family_of_the_routers_has_a_type_and_a_conventional_name():
    of_router.answered("m", "REST", "", 200, 0.25)
    lines = of_router.exposition([]).decode().splitlines()
    types = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
    assert all(OURS.fullmatch(name) for name in types)
    assert all(name.endswith("_total") for name, kind in types.items() if kind == "counter")


def test_a_histogram_of_seconds_shows_seconds_and_theirs_microseconds():
    ours, theirs = Histogram("airtight_serving_x_seconds", "x"), Histogram(":tensorflow:serving:x", "x")
    try:
        for histogram in (ours, theirs):
            histogram.observe(250_000.0)
        assert 'airtight_serving_x_seconds_bucket{le="1e-05"} 0' in ours.lines()
        assert "airtight_serving_x_seconds_sum{} 0.25" in ours.lines()
        assert ':tensorflow:serving:x_bucket{le="10.0"} 0' in theirs.lines()
        assert ":tensorflow:serving:x_sum{} 250000.0" in theirs.lines()
        cumulative = [int(line.rpartition(" ")[2]) for line in ours.lines() if "_bucket" in line]
        assert cumulative == sorted(cumulative) and cumulative[-1] == 1
    finally:
        metrics.METRICS.remove(ours)
        metrics.METRICS.remove(theirs)
