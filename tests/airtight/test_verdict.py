"""A verdict says in words what a gate decided, and crosses JSON unchanged."""

import dataclasses
import json

from airtight.verdict import Check, Verdict

GOOD = Check("auc", True, 0.8, ">= 0.65", 0.79)
BAD = Check("p99_ms", False, 61.0, "<= 50")
WARNED = Check("wind_speed in range", False, severity="warning")


def test_warnings_do_not_fail_a_gate_and_blocking_checks_do():
    assert Verdict("validate", "2013-06", (GOOD, WARNED)).passed
    assert not Verdict("try_serving", "2013-06", (GOOD, BAD)).passed


def test_the_words_name_what_failed():
    summary = str(Verdict("try_serving", "2013-06", (GOOD, BAD, WARNED)))
    assert summary == "try_serving did not pass for 2013-06: 1 of 3 checks hold, 1 warn; failed: p99_ms"
    assert str(BAD) == "FAIL p99_ms = 61, bound <= 50"
    assert str(GOOD) == "ok   auc = 0.8, bound >= 0.65, baseline 0.79"


def test_a_verdict_is_read_back_as_it_was_written(tmp_path):
    verdict = Verdict("evaluate", "2013-06", (GOOD, BAD), reason="Because.")
    verdict.write(tmp_path)
    assert Verdict.read(tmp_path) == verdict


def test_a_metric_that_does_not_exist_is_null_in_json(tmp_path):
    undefined = dataclasses.replace(GOOD, passed=False, value=float("nan"))
    Verdict("evaluate", "2013-06", (undefined,)).write(tmp_path)
    assert json.loads((tmp_path / "verdict.json").read_text())["checks"][0]["value"] is None
    assert Verdict.read(tmp_path).checks[0].value is None
