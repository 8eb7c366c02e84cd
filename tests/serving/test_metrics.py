"""Metrics: Prometheus' own parser reads what we write."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import metrics


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", [])


@pytest.mark.usefixtures("registered")
def test_counters_and_histograms_are_read_back():
    counter = metrics.Counter(":our:count", "Things.", "model_name", "status")
    counter.add('odd "name"\n', "OK")
    counter.add('odd "name"\n', "OK", amount=2)
    histogram = metrics.Histogram(":our:latency", "Time.", "model_name")
    for microseconds in (1.0, 10.0, 11.0, 1e12):
        histogram.observe(microseconds, "m")
    text = metrics.exposition().decode()
    samples = {
        (sample.name, sample.labels.get("le")): (sample.value, sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert ":our:count_total" not in text  # The parser appends it to the name; Prometheus itself does not.
    assert samples[":our:count_total", None][0] == 3
    assert samples[":our:count_total", None][1] == {"model_name": 'odd "name"\n', "status": "OK"}
    assert samples[":our:latency_bucket", "10.0"][0] == 2  # A bound is inclusive.
    assert samples[":our:latency_bucket", "18.0"][0] == 3
    assert samples[":our:latency_bucket", "+Inf"][0] == samples[":our:latency_count", None][0] == 4
    assert samples[":our:latency_sum", None][0] == pytest.approx(1e12 + 22)
