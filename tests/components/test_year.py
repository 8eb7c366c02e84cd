"""The page on which a year of runs is seen at a glance."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

from components.modelling.metric_names import METRICS
from components.reports.year import Gain, Gate, Metric, Month, comparison, measured, page

FEBRUARY = Month(
    "2013-02",
    "backfill__2013-03-01",
    data="now: all 1",
    rows=23_557,
    learned=26_308,
    gates={"validate": Gate(True, "75 of 77 hold"), "evaluate": Gate(True)},
    version=201303010500001,
    metrics=(Metric("ROC AUC", 0.7366), Metric("log loss", 0.4673)),
    drift=0.12,
    drifted=False,
    seconds={"train": 40.0, "transform": 20.5},
)
MARCH = Month(
    "2013-03",
    "<script>alert(1)</script>",
    rows=28_000,
    gates={"validate": Gate(True), "evaluate": Gate(False, "roc_auc fell"), "try_serving": Gate()},
    refusal="Not pushed: evaluate did not bless the model.",
    metrics=(Metric("ROC AUC", 0.71, 0.74, Gain(-0.03, -0.0412, -0.02)),),
    champion=201303010500001,
    drift=0.4,
    drifted=True,
    seconds={"train": 60.0},
    warm=True,
)


def cells(text: str, name: str) -> list[str]:
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL) if f"<td>{name}" in row)
    return [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]


def test_each_interval_has_its_row_and_nothing_is_made_up():
    text = page("flight_delays", [FEBRUARY, MARCH])
    assert "Intervals: 2, models pushed: 1; stopped by a gate: 2013-03." in text
    assert cells(text, "2013-02") == [
        *("2013-02", "23,557", "26,308", "passed", "passed", "-"),
        *("0.7366", "-", "-", "0.4673", "-", "-", "-", "12%", "201303010500001", "60", "now: all 1"),
        *("backfill__2013-03-01", "-"),
    ]
    march = cells(text, "2013-03")
    assert march[:6] == ["2013-03 (warm)", "28,000", "-", "passed", "stopped", "-"]
    assert march[6:9] == ["0.7100", "0.7400", "-0.0300 [-0.0412, -0.0200]"] and march[14] == MARCH.refusal
    assert march[12] == "201303010500001", "the champion is what served"
    assert march[-1] == "roc_auc fell"
    assert "<script>" not in text


def test_a_version_that_was_registered_only_says_so():
    assert "<td>201303010500001, registered only</td>" in page("t", [replace(FEBRUARY, took_over=False)])


def test_the_plots_are_whole_and_the_same_each_time():
    text = page("t", [FEBRUARY, MARCH])
    (svg,) = re.findall(r"<svg.*</svg>", text, re.DOTALL)
    labels = " ".join(ElementTree.fromstring(svg).itertext())
    for word in ("2013-02", "2013-03", "candidate", "champion of then", "not pushed", "transform"):
        assert word in labels
    assert page("t", [FEBRUARY, MARCH]) == text


def test_without_runs_it_says_so():
    assert "Intervals: 0, models pushed: 0." in page("t", [])


def test_pipelines_stand_side_by_side_and_are_summed_where_all_have_the_figure():
    warm = [
        replace(FEBRUARY, metrics=FEBRUARY.metrics[:1]),
        replace(MARCH, metrics=(Metric("ROC AUC", 0.73),), seconds={"train": 20.0}),
    ]
    text = page("t", [FEBRUARY, MARCH], comparison({"cold": [FEBRUARY, MARCH], "warm": warm, "<new>": warm[1:]}))
    table = text[text.index("Side by side") : text.index("Interval by interval")]
    assert cells(table, "2013-02")[1:] == ["0.7366", "0.7366", "-", "0.4673", "-", "-", "40", "40", "-"]
    assert cells(table, "mean")[1:] == ["0.7100", "0.7300", "0.7300", "-", "-", "-", "60", "20", "20"]
    assert cells(table, "sum")[1:] == [*["-"] * 6, "60", "20", "20"]
    assert "<new>" not in table
    assert cells(comparison({"cold": []}), "mean")[1:] == ["-"]


def test_the_metrics_are_those_of_the_task():
    properties = {
        METRICS: json.dumps({"mae": "MAE", "pinball": "pinball loss"}),
        "mae": 30.5,
        "champion_mae": 32.0,
        "mae_gain": 1.5,
        "pinball": 9.0,
    }
    properties |= {"mae_gain_lower": 0.5, "mae_gain_upper": 2.5}
    metrics = measured(properties)
    assert metrics == (("MAE", 30.5, 32.0, (1.5, 0.5, 2.5)), ("pinball loss", 9.0, None, None))
    text = page("bikes", [replace(FEBRUARY, metrics=metrics)])
    assert cells(text, "2013-02")[5:11] == ["30.5000", "32.0000", "+1.5000 [+0.5000, +2.5000]", "9.0000", "-", "-"]
    assert "MAE on the interval" in text and "ROC AUC" not in text
