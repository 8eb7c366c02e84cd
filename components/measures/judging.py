"""Judging Spark data frames by Great Expectations, computing nothing twice.

The pipeline declares plain Great Expectations: `description` is the sentence a person reads, `severity` "critical"
blocks and any other only warns. Every expectation that looks at single rows is first asked yes or no, because Great
Expectations then computes all of a frame's counts in one pass; only the failed ones are asked again, for the rows.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Literal

import great_expectations as gx
from great_expectations.expectations.expectation import (
    ColumnMapExpectation,
    ColumnPairMapExpectation,
    Expectation,
    MulticolumnMapExpectation,
)

from airtight.errors import MAX_EXAMPLES, TerminalError
from airtight.verdict import Check

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.datasource.fluent.interfaces import Batch
    from pyspark.sql import DataFrame

log = logging.getLogger(__name__)

# Both tell at INFO of their own machinery; the second sets its own level when it is imported.
for _talkative in ("great_expectations", "great_expectations.data_context.types.base"):
    logging.getLogger(_talkative).setLevel(logging.WARNING)

_OF_ROWS = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)


@dataclass(frozen=True)
class Subject:
    """One frame, and what is expected of it.

    Args:
      name: What a row is, in the plural, such as "orders".
      part: "interval" or "history".
      frame: The rows.
      keys: Columns that name a row for a person.
      expectations: Each with a description; severity "critical" blocks, another one warns.
    """

    name: str
    part: str
    frame: DataFrame
    keys: tuple[str, ...]
    expectations: Sequence[Expectation]


@dataclass(frozen=True)
class Finding:
    """What came of one expectation.

    Args:
      subject: Name of the subject.
      part: "interval" or "history".
      sentence: What was expected, for a person.
      expectation: Its type in Great Expectations.
      settings: Its settings, as JSON.
      severity: "blocking" or "warning".
      passed: Whether it holds.
      rows: How many rows the frame has.
      unexpected: How many rows do not meet it; None where it is about the whole frame.
      observed: What was measured, where it is about the whole frame.
      examples: Up to five rows that do not meet it: keys and values.
    """

    subject: str
    part: str
    sentence: str
    expectation: str
    settings: dict[str, Any]
    severity: Literal["blocking", "warning"]
    passed: bool
    rows: int
    unexpected: int | None = None
    observed: float | None = None
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def measured(self) -> str:
        """What was found, in words."""
        if self.unexpected is None:
            return "nothing to measure" if self.observed is None else f"{self.observed:.6g}"
        if self.unexpected == 0:
            return f"all {self.rows:,} rows"
        return f"{self.unexpected:,} of {self.rows:,} rows do not ({100 * self.unexpected / self.rows:.3g} %)"

    @property
    def bound(self) -> str:
        """The bound of what was measured, in words."""
        if self.unexpected is not None:
            mostly = self.settings.get("mostly", 1)
            return "<= 0" if mostly == 1 else f"<= {(1 - mostly) * self.rows:.0f}"
        low, high = self.settings.get("min_value"), self.settings.get("max_value")
        sides = ([f">= {low:g}"] if low is not None else []) + ([f"<= {high:g}"] if high is not None else [])
        return " and ".join(sides)

    def to_check(self) -> Check:
        """As a line of the verdict."""
        note = f"Such as {'; '.join(map(in_words, self.examples))}." if self.examples else ""
        value = self.observed if self.unexpected is None else float(self.unexpected)
        name = f"{self.part} {self.subject}: {self.sentence}"
        return Check(name, self.passed, value, self.bound, None, self.severity, note)


def nothing_expected(reader: object, spark: object) -> tuple[Subject, ...]:
    """The subjects of a pipeline without expectations: none."""
    return ()


def judge(subjects: Iterable[Subject]) -> Iterator[Finding]:
    """Judges each subject by its expectations.

    Args:
      subjects: What to judge; their frames belong to one Spark session, which is the active one.

    Yields:
      One finding for each expectation, in order.

    Raises:
      TerminalError: An expectation cannot be computed, such as one about a column that is not there.
    """
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    # Persisted here, once, and until the last is judged, because a subject may be computed from the one before it.
    source = context.data_sources.add_spark("spark", persist=False)
    with contextlib.ExitStack() as persisted:
        for subject in subjects:
            frame = subject.frame.persist()
            persisted.callback(frame.unpersist)
            rows = frame.count()
            asset = source.add_dataframe_asset(f"{subject.part} {subject.name}")
            batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
            findings = _judge_one(subject, batch, rows)
            met = sum(finding.passed for finding in findings)
            log.info("%s %s: %d rows, %d of %d expectations met.", subject.part, subject.name, rows, met, len(findings))
            yield from findings


def in_words(example: dict[str, Any]) -> str:
    """One example: its keys and the values that were not expected."""
    return ", ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in example.items())


def _judge_one(subject: Subject, batch: Batch, rows: int) -> list[Finding]:
    """Asks about the whole frame with the value measured, about rows yes or no, and about failed rows once more."""
    of_rows = [place for place, expectation in enumerate(subject.expectations) if isinstance(expectation, _OF_ROWS)]
    of_frame = [place for place in range(len(subject.expectations)) if place not in of_rows]
    answers = _ask(batch, subject, of_rows, "BOOLEAN_ONLY") | _ask(batch, subject, of_frame, "BASIC")
    failed = [place for place in of_rows if not answers[place].success]
    answers |= _ask(batch, subject, failed, "SUMMARY")
    return [_finding(subject, answers[place], rows) for place in range(len(subject.expectations))]


def _ask(
    batch: Batch, subject: Subject, places: Sequence[int], result_format: str
) -> dict[int, ExpectationValidationResult]:
    """Validates some of the expectations together; the answers by the place of the expectation among all."""
    if not places:
        return {}
    # Answers come in another order than they were asked for, so each carries its place.
    expectations = [subject.expectations[place].copy(update={"meta": {"place": place}}) for place in places]
    settings: dict[str, Any] = {"result_format": result_format, "partial_unexpected_count": MAX_EXAMPLES}
    if result_format == "SUMMARY":
        settings["unexpected_index_column_names"] = list(subject.keys)
    results = batch.validate(gx.ExpectationSuite("asked", expectations=expectations), result_format=settings).results
    for answer in results:
        _check_computed(subject, answer)
    return {answer.expectation_config.meta["place"]: answer for answer in results}


def _check_computed(subject: Subject, answer: ExpectationValidationResult) -> None:
    info = answer.exception_info or {}
    exceptions = [info] if "raised_exception" in info else list(info.values())
    messages = [entry["exception_message"] for entry in exceptions if entry.get("raised_exception")]
    if messages:
        raise TerminalError(
            f"An expectation of {subject.part} {subject.name} cannot be computed: {_sentence(answer)}.",
            expected=f"columns among {', '.join(subject.frame.columns)}",
            received=str(messages[0]),
            remedy="Correct the expectation.",
        )


def _finding(subject: Subject, answer: ExpectationValidationResult, rows: int) -> Finding:
    config, result = answer.expectation_config, answer.result
    asked_of_rows = "observed_value" not in result
    observed = None if asked_of_rows else result["observed_value"]
    examples = [_plain(example) for example in result.get("partial_unexpected_index_list") or []]
    return Finding(
        subject.name,
        subject.part,
        _sentence(answer),
        config.type,
        _plain({k: v for k, v in config.kwargs.items() if k != "batch_id"}),
        "blocking" if config.severity == "critical" else "warning",
        bool(answer.success),
        rows,
        (result.get("unexpected_count", 0) if asked_of_rows else None),
        float(observed) if isinstance(observed, (int, float)) and math.isfinite(observed) else None,
        examples[:MAX_EXAMPLES],
    )


def _sentence(answer: ExpectationValidationResult) -> str:
    config = answer.expectation_config
    return (config.description or f"{config.type} {config.kwargs.get('column', '')}").rstrip(".")


def _plain(value: Any) -> Any:
    """As JSON can hold it."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
