"""The artifact types that TFX's standard ones do not cover. Every one carries the interval it speaks of.

`HOLDS_FILES` has the launcher fail a node that left such an output empty.
"""

from typing import ClassVar

from tfx.types.artifact import Artifact, Property, PropertyType

_INTERVAL = {
    "interval_start": Property(type=PropertyType.STRING),
    "interval_end": Property(type=PropertyType.STRING),
}


class Dataset(Artifact):
    """What one run reads from the lake: `manifest.json`, naming immutable files and their digests."""

    TYPE_NAME = "Dataset"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "rows": Property(type=PropertyType.INT),
        "digest": Property(type=PropertyType.STRING),
    }


class ValidationReport(Artifact):
    """What Great Expectations found: `verdict.json`, `report.json`, `report.html`."""

    TYPE_NAME = "ValidationReport"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {**_INTERVAL, "passed": Property(type=PropertyType.INT)}


class Proposal(Artifact):
    """Which version of a model would be served, for a person to decide: `proposal.json`, `proposal.md`.

    The interval is that of the proposed version; `served` and `pinned` are what the person saw (0 is none), `as_of` is
    the end of the latest interval of which a version was registered then.
    """

    TYPE_NAME = "Proposal"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "model": Property(type=PropertyType.STRING),
        "version": Property(type=PropertyType.INT),
        "pin": Property(type=PropertyType.INT),
        "served": Property(type=PropertyType.INT),
        "pinned": Property(type=PropertyType.INT),
        "reason": Property(type=PropertyType.STRING),
        "summary": Property(type=PropertyType.STRING),
        "as_of": Property(type=PropertyType.STRING),
    }


class Promotion(Artifact):
    """What is served of a model since a person or a release wanted it: `promotion.json`.

    With `took_over` 1 it says that `to_version` serves, and the interval is that version's; `as_of` is since when, in
    data time (`airtight.served_history`). With 0 the version in question, whose interval it is, does not.
    `changed` is 0 where this step found everything as it was to be, such as the retry of one that was killed.
    `overridden` says whose earlier choice it put an end to; it is empty where nobody had chosen.
    """

    TYPE_NAME = "Promotion"
    RECORD: ClassVar[tuple[str, ...]] = (
        *("model", "from_version", "to_version", "changed", "took_over", "reason", "approval", "overridden"),
        *("summary", "as_of", "interval_start", "interval_end"),
    )
    """What `promotion.json` holds."""
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "model": Property(type=PropertyType.STRING),
        "from_version": Property(type=PropertyType.INT),
        "to_version": Property(type=PropertyType.INT),
        "changed": Property(type=PropertyType.INT),
        "took_over": Property(type=PropertyType.INT),
        "reason": Property(type=PropertyType.STRING),
        "approval": Property(type=PropertyType.STRING),
        "overridden": Property(type=PropertyType.STRING),
        "summary": Property(type=PropertyType.STRING),
        "as_of": Property(type=PropertyType.STRING),
    }


class AlarmAct(Artifact):
    """What a person did about alarms: `act.json`; `alarm` is empty where it is about all, `until` ends a silence."""

    TYPE_NAME = "AlarmAct"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        "model": Property(type=PropertyType.STRING),
        "act": Property(type=PropertyType.STRING),
        "alarm": Property(type=PropertyType.STRING),
        "until": Property(type=PropertyType.STRING),
        "reason": Property(type=PropertyType.STRING),
        "approval": Property(type=PropertyType.STRING),
    }


class Release(Artifact):
    """A version that is tried beside the served one: `release.json`. The interval is the candidate's.

    `release` is empty where none was begun, and `summary` says why. `as_of` is the end of the latest interval of which
    a version was registered then.
    """

    TYPE_NAME = "Release"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "model": Property(type=PropertyType.STRING),
        "release": Property(type=PropertyType.STRING),
        "stable": Property(type=PropertyType.INT),
        "candidate": Property(type=PropertyType.INT),
        "mode": Property(type=PropertyType.STRING),
        "share": Property(type=PropertyType.FLOAT),
        "since": Property(type=PropertyType.STRING),
        "minutes": Property(type=PropertyType.FLOAT),
        "longest_minutes": Property(type=PropertyType.FLOAT),
        "margins": Property(type=PropertyType.STRING),
        "summary": Property(type=PropertyType.STRING),
        "as_of": Property(type=PropertyType.STRING),
    }


class ReleaseDecision(Artifact):
    """What live requests said of a release: `verdict.json`, `report.html`, `counts.json`."""

    TYPE_NAME = "ReleaseDecision"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "model": Property(type=PropertyType.STRING),
        "release": Property(type=PropertyType.STRING),
        "promoted": Property(type=PropertyType.INT),
        "reason": Property(type=PropertyType.STRING),
    }


class DriftReport(Artifact):
    """How the interval differs from the training reference: `verdict.json`, `report.html`."""

    TYPE_NAME = "DriftReport"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {**_INTERVAL, "drifted": Property(type=PropertyType.INT)}


class Predictions(Artifact):
    """What a model says of an interval's rows: `date=YYYY-MM-DD/predictions.parquet` by local day, `report.html`."""

    TYPE_NAME = "Predictions"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "model": Property(type=PropertyType.STRING),
        "version": Property(type=PropertyType.INT),
        "model_digest": Property(type=PropertyType.STRING),
        "rows": Property(type=PropertyType.INT),
        "digest": Property(type=PropertyType.STRING),
    }


class LabelQuality(Artifact):
    """How good a model's predictions were, day by day, as of the labels that were known at the interval's end.

    `days.jsonl`, `report.html`; `date=YYYY-MM-DD/rows.parquet` of the days that this run made anew (predictions with
    what became of them), `date=YYYY-MM-DD/sample.parquet` and `estimator.json` of what estimates are made by.
    """

    TYPE_NAME = "LabelQuality"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "model": Property(type=PropertyType.STRING),
        "known_by": Property(type=PropertyType.STRING),
        "days": Property(type=PropertyType.INT),
        "ripe": Property(type=PropertyType.INT),
        "reopened": Property(type=PropertyType.INT),
        "summary": Property(type=PropertyType.STRING),
    }


class PromotionOutcome(Artifact):
    """Whether a version that took over lost more than the former champion since: `outcome.json`, `report.html`.

    `version` and `former` are 0 where there is nothing to compare. `outcome` is one of
    `airtight.watch.after_promotion.OUTCOMES`; with `take_back`, `by_itself` is 0 where a person promoted the version,
    or the former champion's files were gone or damaged when it was judged: then a person has to take it back. The
    interval is the one that was watched last.
    """

    TYPE_NAME = "PromotionOutcome"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "model": Property(type=PropertyType.STRING),
        "version": Property(type=PropertyType.INT),
        "former": Property(type=PropertyType.INT),
        "outcome": Property(type=PropertyType.STRING),
        "by_itself": Property(type=PropertyType.INT),
        "took_over_at": Property(type=PropertyType.STRING),
        "days": Property(type=PropertyType.INT),
        "rows": Property(type=PropertyType.INT),
        "difference": Property(type=PropertyType.FLOAT),
        "lower": Property(type=PropertyType.FLOAT),
        "reason": Property(type=PropertyType.STRING),
    }


class SkewReport(Artifact):
    """Logged features beside recomputed ones: `verdict.json`, `skew.json` (counts and examples), `report.html`."""

    TYPE_NAME = "SkewReport"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "model": Property(type=PropertyType.STRING),
        "rows": Property(type=PropertyType.INT),
        "skewed": Property(type=PropertyType.INT),
        "unknown": Property(type=PropertyType.INT),
        "summary": Property(type=PropertyType.STRING),
    }


class StreamClosing(Artifact):
    """Whether a stream's rows equal the batch's: `verdict.json`, `report.html`, `differences.parquet`."""

    TYPE_NAME = "StreamClosing"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "equal": Property(type=PropertyType.INT),
        "rows": Property(type=PropertyType.INT),
        "missing": Property(type=PropertyType.INT),
        "extra": Property(type=PropertyType.INT),
        "differing": Property(type=PropertyType.INT),
        "lake_version": Property(type=PropertyType.INT),
        "summary": Property(type=PropertyType.STRING),
    }


class SummarizedDay(Artifact):
    """A watched day's rows in counts: `summary.json` (`components.watch.day_summary`)."""

    TYPE_NAME = "SummarizedDay"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "day": Property(type=PropertyType.STRING),
        "rows": Property(type=PropertyType.INT),
        "labelled": Property(type=PropertyType.INT),
    }


class DataAlarms(Artifact):
    """What is wrong with a watched day's data: `judgement.json`, and `state.npz` for the day after.

    `alarm` is 1 where anything is wrong, and `blocking` where it is a fault, which blocks training.
    """

    TYPE_NAME = "DataAlarms"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "day": Property(type=PropertyType.STRING),
        "alarm": Property(type=PropertyType.INT),
        "blocking": Property(type=PropertyType.INT),
        "summary": Property(type=PropertyType.STRING),
    }


class ChallengerReport(Artifact):
    """What the served model, challengers and the model before it lose on the same rows of a day: `losses.json`."""

    TYPE_NAME = "ChallengerReport"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "day": Property(type=PropertyType.STRING),
        "version": Property(type=PropertyType.INT),
        "rows": Property(type=PropertyType.INT),
        "unit": Property(type=PropertyType.STRING),
        "summary": Property(type=PropertyType.STRING),
    }


class WatchDecision(Artifact):
    """What a watch decides at the end of a day: `decision.json`, and `state.json` for the day after.

    `action` is retrain, keep or fix_data. Where it is retrain, `run_id` is the training run's, `trains` its interval
    and `window_days` the history that it learns from (0 is all). `alarm` is 1 where the regret alarms, which `regret`
    says in a sentence and `alarm_since` by its first day, `data_alarm` where the data do. `version` is what served.
    """

    TYPE_NAME = "WatchDecision"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "day": Property(type=PropertyType.STRING),
        "model": Property(type=PropertyType.STRING),
        "version": Property(type=PropertyType.INT),
        "action": Property(type=PropertyType.STRING),
        "reason": Property(type=PropertyType.STRING),
        "policy": Property(type=PropertyType.STRING),
        "alarm": Property(type=PropertyType.INT),
        "alarm_since": Property(type=PropertyType.STRING),
        "data_alarm": Property(type=PropertyType.INT),
        "regret": Property(type=PropertyType.STRING),
        "run_id": Property(type=PropertyType.STRING),
        "trains": Property(type=PropertyType.STRING),
        "window_days": Property(type=PropertyType.INT),
    }


class TrainingClearance(Artifact):
    """That a watch lets a training go on: `clearance.json`. `accepted` is 1 where the run accepts open faults.

    `day` is the last watched day of the interval, whose open faults these are, and `as_of` the end of the latest day
    that had been watched by then: the watch of a later day knows that they are accepted.
    """

    TYPE_NAME = "TrainingClearance"
    HOLDS_FILES = True
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "day": Property(type=PropertyType.STRING),
        "accepted": Property(type=PropertyType.INT),
        "as_of": Property(type=PropertyType.STRING),
        "summary": Property(type=PropertyType.STRING),
    }
