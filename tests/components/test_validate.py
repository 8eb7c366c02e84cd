"""validate and what it stands on: judging by Great Expectations, the verdict, the report, and data that are refused."""

from __future__ import annotations

import json
import sys
import types
from datetime import UTC, date, datetime

import great_expectations.expectations as gxe
import pyarrow as pa
import pytest

from airtight.errors import TerminalError
from airtight.interval import Interval
from airtight.verdict import Verdict
from components.artifacts import Dataset, ValidationReport
from components.data.dataset import DatasetReader
from components.data.lake import Lake, Table
from components.measures.judging import Finding, Subject, judge
from components.reports.validation import ValidationSummary
from components.validate import reports_folder, validate

TABLE = Table(
    "things",
    pa.schema({"name": pa.string(), "at": pa.timestamp("us", tz="UTC"), "colour": pa.string(), "size": pa.float64()}),
    key=("name",),
    time="at",
)
INTERVAL = Interval.parse("2020-03", "UTC")


def finding(**changes) -> Finding:
    fields = {
        "subject": "things",
        "part": "interval",
        "sentence": "Every thing is <small>",
        "expectation": "expect_column_values_to_be_between",
        "settings": {"column": "size", "max_value": 3},
        "severity": "blocking",
        "passed": True,
        "rows": 100,
        "unexpected": 0,
    }
    return Finding(**{**fields, **changes})


def test_a_finding_says_what_was_measured_and_what_is_allowed():
    assert (finding().measured, finding().bound) == ("all 100 rows", "<= 0")
    some = finding(unexpected=3, settings={"mostly": 0.95})
    assert (some.measured, some.bound) == ("3 of 100 rows do not (3 %)", "<= 5")
    share = finding(unexpected=None, observed=0.25, settings={"min_value": 0.1, "max_value": 0.5})
    assert (share.measured, share.bound) == ("0.25", ">= 0.1 and <= 0.5")
    failed = finding(passed=False, unexpected=2, examples=[{"name": "a", "size": 0.123456789}, {"name": "b"}])
    assert str(failed.to_check()) == (
        "FAIL interval things: Every thing is <small> = 2, bound <= 0. Such as name a, size 0.123457; name b."
    )


@pytest.fixture
def reader(tmp_path) -> DatasetReader:
    """Twenty things in March, of which name 7 is twice as large as the others, after ten in February."""
    lake = Lake(tmp_path / "lake")
    days = {}
    for month, count in ((2, 10), (3, 20)):
        rows = [(f"{month}/{i}", datetime(2020, month, 5, i, tzinfo=UTC), "red", 1.0) for i in range(count)]
        days[date(2020, month, 5)] = pa.table(dict(zip(TABLE.schema.names, zip(*rows, strict=True), strict=True)))
    days = {day: rows.cast(TABLE.schema) for day, rows in days.items()}
    lake.write("things", days)
    from components import ingest

    return ingest._select(lake, (TABLE,), INTERVAL, "UTC", window_days=0, lake_version="now")


def test_the_report_is_whole_and_escapes_what_it_shows(reader, tmp_path):
    findings = [
        finding(),
        finding(passed=False, unexpected=1, examples=[{"name": "<script>alert(1)</script>"}]),
        finding(passed=False, severity="warning", unexpected=None, observed=None),
    ]
    summary = ValidationSummary("toy", reader, findings)
    summary.write(tmp_path / "report")
    html = (tmp_path / "report" / "report.html").read_text()
    assert "Did not pass" in html
    assert "<script>" not in html
    assert "Every thing is &lt;small&gt;" in html
    assert "src=" not in html and "href=" not in html  # Nothing is fetched: the file can be sent to anyone.
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["passed"] is False
    assert [entry["passed"] for entry in report["findings"]] == [True, False, False]
    assert report["dataset_digest"] == reader.digest
    verdict = Verdict.read(tmp_path / "report")
    assert not verdict.passed
    assert [check.severity for check in verdict.checks] == ["blocking", "blocking", "warning"]


def test_warnings_alone_pass(reader):
    warned = ValidationSummary("toy", reader, [finding(), finding(passed=False, severity="warning", unexpected=4)])
    assert warned.verdict.passed
    assert "1 warn" in str(warned.verdict)


def expectations(*, colours=("red",), largest=3.0):
    return [
        gxe.ExpectColumnValuesToBeUnique(column="name", description="No thing is there twice."),
        gxe.ExpectColumnMeanToBeBetween(column="size", min_value=0.5, max_value=2, description="The mean is 0.5 to 2"),
        gxe.ExpectColumnValuesToBeBetween(
            column="size", max_value=largest, description="Every thing is small", severity="warning"
        ),
        gxe.ExpectColumnValuesToBeInSet(column="colour", value_set=list(colours), description="Every thing is red"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["colour", "at"], description="One of a colour at a time"),
        gxe.ExpectColumnValuesToNotBeNull(column="name", mostly=0.5, description="Half of the things have names"),
    ]


@pytest.fixture
def things(spark):
    rows = [(f"n{i}", i, "red" if i % 10 else "blue", 4.0 if i == 7 else 1.0) for i in range(40)]
    return spark.createDataFrame([*rows, ("n3", 99, "red", 1.0)], "name string, at int, colour string, size double")


@pytest.mark.slow
def test_each_finding_belongs_to_its_expectation(things):
    subject = Subject("things", "interval", things, ("name", "at"), expectations())
    by_sentence = {finding.sentence: finding for finding in judge([subject])}
    assert list(by_sentence) == [expected.description.rstrip(".") for expected in expectations()]
    assert {sentence: finding.passed for sentence, finding in by_sentence.items()} == {
        "No thing is there twice": False,
        "The mean is 0.5 to 2": True,
        "Every thing is small": False,
        "Every thing is red": False,
        "One of a colour at a time": True,
        "Half of the things have names": True,
    }
    assert by_sentence["The mean is 0.5 to 2"].observed == pytest.approx(44 / 41)
    assert by_sentence["No thing is there twice"].unexpected == 2
    assert {row["at"] for row in by_sentence["No thing is there twice"].examples} == {3, 99}
    assert by_sentence["Every thing is small"].severity == "warning"
    assert by_sentence["Every thing is small"].examples == [{"name": "n7", "at": 7, "size": 4.0}]
    assert by_sentence["Every thing is red"].measured == "4 of 41 rows do not (9.76 %)"
    assert {row["name"] for row in by_sentence["Every thing is red"].examples} == {"n0", "n10", "n20", "n30"}


@pytest.mark.slow
def test_no_more_than_five_examples_are_told(things):
    expected = [gxe.ExpectColumnValuesToBeInSet(column="colour", value_set=["green"], description="All are green")]
    (result,) = judge([Subject("things", "interval", things, ("name",), expected)])
    assert result.unexpected == 41
    assert len(result.examples) == 5


@pytest.mark.slow
def test_an_expectation_of_a_column_that_is_not_there_is_told(things):
    expected = [gxe.ExpectColumnValuesToNotBeNull(column="weight", description="Every thing has a weight")]
    with pytest.raises(TerminalError, match=r"cannot be computed: Every thing has a weight.*name, at, colour, size"):
        list(judge([Subject("things", "interval", things, ("name",), expected)]))


@pytest.fixture
def run(reader, spark, tmp_path, monkeypatch):
    """Runs the component on the reader's data with the given expectations."""

    def run(**changes) -> ValidationReport:
        dataset, report = Dataset(), ValidationReport()
        dataset.uri, report.uri = str(tmp_path / "dataset"), str(tmp_path / "report")
        dataset.interval_start, dataset.interval_end = INTERVAL.start.isoformat(), INTERVAL.end.isoformat()
        reader.write(dataset.uri)
        declared = types.ModuleType("toy_expectations")
        declared.subjects = lambda reader, spark: [
            Subject("things", part, reader.spark_frame(spark, "things", part), ("name",), expectations(**changes))
            for part in ("interval", "history")
        ]
        monkeypatch.setitem(sys.modules, "toy_expectations", declared)
        validate.EXECUTOR_SPEC.executor_class._FUNCTION(
            dataset=dataset, report=report, expectations="toy_expectations:subjects", pipeline="toy"
        )
        return report

    return run


@pytest.mark.slow
def test_data_that_meet_what_is_expected_pass_with_their_report(run, tmp_path, caplog):
    report = run(largest=0.5)
    assert report.passed == 1
    assert (report.interval_start, report.interval_end) == (INTERVAL.start.isoformat(), INTERVAL.end.isoformat())
    assert report.get_int_custom_property("expectations") == 12
    assert report.get_int_custom_property("warnings") == 2
    assert {file.name for file in (tmp_path / "report").iterdir()} == {"verdict.json", "report.json", "report.html"}
    assert "warn interval things: Every thing is small = 20" in caplog.text
    assert not reports_folder("toy", INTERVAL).exists()


@pytest.mark.slow
def test_data_that_are_no_longer_what_ingest_saw_are_not_judged(run, reader):
    (path,) = reader.files("things", "history")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TerminalError, match=r"of 2020-02-05, things/date=2020-02-05/\w+.parquet, was replaced"):
        run()
    assert not reports_folder("toy", INTERVAL).exists()


@pytest.mark.slow
def test_data_that_do_not_are_refused_and_the_report_is_kept(run, tmp_path):
    with pytest.raises(TerminalError) as refused:
        run(colours=("green",))
    kept = reports_folder("toy", INTERVAL)
    words = str(refused.value)
    assert "do not meet a blocking expectation and 1 more: Every thing is red" in words
    assert "20 of 20 rows do not (100 %), such as name 3/" in words
    assert words.count("name 3/") == 5
    assert f"Read {kept}/report.html" in words
    assert {file.name for file in kept.iterdir()} == {"verdict.json", "report.json", "report.html"}
    assert not Verdict.read(kept).passed
    assert not (tmp_path / "report").exists()
