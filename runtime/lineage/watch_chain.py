"""From an alarm to what came of it: alarm, decision, training run, verdicts, release, outcome; read from artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import ml_metadata as mlmd

from airtight.served_spans import Span, has_effect
from airtight.watch.brakes import helped
from airtight.watch.history import Fit, History, Period
from runtime.attempt_names import CONTEXT_TYPE
from runtime.lineage.artifacts import INPUT_EVENTS, Artifact, ByKey, Scalar, by_key, scalars
from runtime.lineage.costs import executions_that_made
from runtime.lineage.runs import SUCCEEDED, Run, of_run_id
from runtime.lineage.versions import of_model, of_watch, published_at, pushes, spans_of

STATE = "state.json"
"""In a `WatchDecision`."""
VERDICTS = ("TrainingClearance", "ValidationReport", "ModelEvaluation", "ModelBlessing", "InfraBlessing")
"""Types of the artifacts that say whether a training may go on, in the order of the steps."""
PROMOTION = "Promotion"
RELEASES = ("Release", "ReleaseDecision", PROMOTION)
JUDGED = "PromotionOutcome"
BACKFILL = "backfill__"
"""How Airflow begins the ids of a backfill's runs."""
NOT_BEGUN, UNDER_WAY, FAILED, REFUSED, AWAITS, NEVER_SERVED, SERVES, TAKEN_BACK = (
    *("not begun", "under way", "failed", "refused", "awaits a release", "never served", "serves", "taken back"),
)


@dataclass(frozen=True)
class Chain:
    """What a decision rests on, and what came of it.

    Args:
      decision: The `WatchDecision`.
      alarms: The day's `DataAlarms`; None where it is gone.
      losses: The day's `ChallengerReport`; None where it is gone.
      run: The training run that the decision names, as far as it has come; None where there is none.
      verdicts: What its steps said, in their order.
      pushed: Its `PushedModel`; None before there is one.
      releases: What releases and promotions did with its version, the oldest first.
      settled_at: When a push or promotion made the outcome so, ISO 8601, UTC; "" where none did.
      judged: The last that was said of it beside the former champion; None where it was not compared yet.
      decided_by: Labels of the attempt that decided, such as `run_id` of the watch's run.
      outcome: NOT_BEGUN, UNDER_WAY, FAILED, REFUSED, AWAITS, NEVER_SERVED (a later version does), SERVES, TAKEN_BACK
        or until when its version served; "" of a decision that wants no run.
      words: The outcome in a sentence.
      saved: Mean loss of a row that its model has saved so far beside the one before it; None where nothing is known.
    """

    decision: Artifact
    alarms: Artifact | None
    losses: Artifact | None
    run: Run | None
    verdicts: tuple[Artifact, ...]
    pushed: Artifact | None
    releases: tuple[Artifact, ...]
    outcome: str
    words: str
    saved: float | None = None
    settled_at: str = ""
    judged: Artifact | None = None
    decided_by: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def is_backfilled(self) -> bool:
        """Whether a backfill decided, which triggers nothing."""
        return _is_backfill(self.decided_by)

    @property
    def version(self) -> int:
        """The version that the run pushed; 0 for none."""
        return _version(self.pushed)


def chains(store: mlmd.MetadataStore, model: str, *, action: str = "", newest: int | None = None) -> list[Chain]:
    """The chains of days, the newest day first.

    Args:
      store: The metadata store.
      model: Name of the model, which is the training pipeline's id.
      action: Only of days on which this was decided; "" is any.
      newest: So many at most; None is all.
    """
    days = of_each_day(store, of_watch(store, f"{model}_watch"))[::-1]
    wanted = [decision for decision in days if action in ("", decision.properties["action"])][:newest]
    if not wanted:
        return []
    released = [artifact for kind in (*RELEASES, JUDGED) for artifact in of_model(store, kind, model)]
    history = spans_of([*pushes(store, model), *(a for a in released if a.type.name == PROMOTION)])
    return chains_of(store, model, wanted, released, history=history, saved=losses_saved(days[0]))


def of_each_day(store: mlmd.MetadataStore, decisions: Sequence[Artifact]) -> list[Artifact]:
    """Of each day the decision that holds, in the order of days.

    Of a day that was decided again that is the last one; where earlier ones said the same, the first of them that no
    backfill made, which triggered what it says.

    Args:
      store: The metadata store.
      decisions: The oldest first.
    """

    def content(decision: Artifact) -> tuple[Scalar, ...]:
        return tuple(decision.properties.get(name, "") for name in ("day", "action", "reason", "run_id"))

    last = {str(decision.properties["day"]): content(decision) for decision in decisions}
    equal: dict[tuple[Scalar, ...], list[Artifact]] = {}
    for decision in decisions:
        equal.setdefault(content(decision), []).append(decision)
    # What wants no training triggers nothing, whoever made it.
    triggering = {day: equal[content] for day, content in last.items() if content[-1] and len(equal[content]) > 1}
    makers = executions_that_made(store, [decision for several in triggering.values() for decision in several])
    first = {
        day: next((d for d in several if not _is_backfill(_labels(store, makers.get(d.proto.id, 0)))), several[0])
        for day, several in triggering.items()
    }
    return [first.get(day) or equal[last[day]][0] for day in sorted(last)]


def chains_of(
    store: mlmd.MetadataStore,
    training: str,
    decisions: Sequence[Artifact],
    released: Sequence[Artifact],
    *,
    history: Sequence[Span],
    saved: Mapping[int, float],
) -> list[Chain]:
    """The chains of some decisions, in their order; the cost is theirs, however many there are.

    Args:
      store: The metadata store.
      training: Id of the training pipeline.
      decisions: The decisions.
      released: Artifacts of `RELEASES` and `JUDGED` that count.
      history: Which version answered the requests when.
      saved: As `losses_saved` gives it.
    """
    makers = executions_that_made(store, decisions)
    inputs = by_key(store, makers.values(), INPUT_EVENTS)
    return [
        _chain(
            *(store, training, decision, inputs.get(makers.get(decision.proto.id, 0), {})),
            labels=_labels(store, makers.get(decision.proto.id, 0)),
            released=released,
            history=history,
            saved=saved,
        )
        for decision in decisions
    ]


def _chain(
    store: mlmd.MetadataStore,
    training: str,
    decision: Artifact,
    inputs: ByKey,
    *,
    labels: Mapping[str, Scalar],
    released: Sequence[Artifact],
    history: Sequence[Span],
    saved: Mapping[int, float],
) -> Chain:
    given = {artifact.type.name: artifact for several in inputs.values() for artifact in several}
    seen = decision, given.get("DataAlarms"), given.get("ChallengerReport")
    properties = decision.properties
    if properties["action"] != "retrain":
        return Chain(*seen, None, (), None, (), "", f"{properties['reason']}.", decided_by=labels)
    run = of_run_id(store, training, str(properties["run_id"]))
    outputs = _outputs(run)
    verdicts = tuple(outputs[kind] for kind in VERDICTS if kind in outputs)
    pushed = outputs.get("PushedModel")
    version = _version(pushed)
    releases = tuple(sorted(_about(version, released), key=lambda artifact: artifact.proto.id)) if version else ()
    judged = [a for a in released if a.type.name == JUDGED and version and a.properties.get("version") == version]
    outcome, words, settled_at = _outcome(run, pushed, releases, history)
    return Chain(
        *(*seen, run, verdicts, pushed, releases, outcome, words, saved.get(version), settled_at),
        judged=max(judged, key=in_data_time, default=None),
        decided_by=labels,
    )


def in_data_time(artifact: Artifact) -> tuple[datetime, int]:
    """A key by which artifacts are in the order of their intervals' ends; of one that was made again, the last."""
    return datetime.fromisoformat(str(artifact.properties["interval_end"])), artifact.proto.id


def _labels(store: mlmd.MetadataStore, execution: int) -> dict[str, Scalar]:
    """What the scheduler calls the attempt that an execution was."""
    around = store.get_contexts_by_execution(execution) if execution else ()
    return next((scalars(c.custom_properties) for c in around if c.type == CONTEXT_TYPE), {})


def _outputs(run: Run | None) -> dict[str, Artifact]:
    """What the run's steps made, by type."""
    if run is None:
        return {}
    steps = [step for step in run.steps.values() if step.state in SUCCEEDED and not step.is_resolver]
    return {a.type.name: a for step in steps for several in step.outputs.values() for a in several}


def _about(version: int, released: Iterable[Artifact]) -> list[Artifact]:
    """What releases and promotions did with a version."""
    trials = {
        artifact.properties.get("release")
        for artifact in released
        if artifact.type.name == "Release" and artifact.properties.get("candidate") == version
    } - {"", None}
    did = [artifact for artifact in released if artifact.type.name != PROMOTION or has_effect(artifact.properties)]
    return [
        artifact
        for artifact in did
        if version in (artifact.properties.get(name) for name in ("candidate", "to_version", "from_version"))
        or artifact.properties.get("release") in trials
        or str(artifact.properties.get("approval", "")).removeprefix("release ") in trials
    ]


def _version(pushed: Artifact | None) -> int:
    """The version that was pushed; 0 for none."""
    properties = pushed.properties if pushed else {}
    return int(properties.get("version", 0)) if properties.get("pushed") else 0


def _is_backfill(labels: Mapping[str, Scalar]) -> bool:
    """Whether an attempt was one of a backfill's run."""
    return str(labels.get("run_id", "")).startswith(BACKFILL)


def _outcome(
    run: Run | None, pushed: Artifact | None, releases: Sequence[Artifact], history: Sequence[Span]
) -> tuple[str, str, str]:
    """The outcome in short, in a sentence, and when it came to be so."""
    if run is None:
        return NOT_BEGUN, "No such run has begun: a backfill or a report triggers none, or it waits in the queue.", ""
    if pushed is None:
        failed = [step.node for step in run.steps.values() if step.state == "failed"]
        if failed:
            return FAILED, f"The run failed at {', '.join(failed)}.", ""
        return UNDER_WAY, f"The run is under way: {', '.join(run.steps)} have begun.", ""
    version = _version(pushed)
    last = max((place for place, span in enumerate(history) if span.version == version), default=None)
    if last is None:
        return _without_serving(pushed, releases)
    span = history[last]
    if span.until and span.ended_by < version:
        return TAKEN_BACK, history[last + 1].because, span.until
    return f"served until {span.until[:10]}" if span.until else SERVES, span.because, span.since


def _without_serving(pushed: Artifact, releases: Sequence[Artifact]) -> tuple[str, str, str]:
    """The outcome of a push whose version has answered no request."""
    version, properties = _version(pushed), pushed.properties
    if version:
        for end in reversed(releases):
            if end.type.name == PROMOTION and int(end.properties.get("to_version") or 0) < version:
                return TAKEN_BACK, str(end.properties.get("summary", "")), published_at(end)
    outcome = (NEVER_SERVED if properties.get("took_over") else AWAITS) if version else REFUSED
    return outcome, str(properties.get("reason", "")), published_at(pushed)


def losses_saved(decision: Artifact) -> dict[int, float]:
    """By version what a row has lost less, or more, since it serves, as the state beside a decision has it.

    Args:
      decision: The newest.
    """
    path = Path(decision.uri, STATE)
    if not path.is_file():
        return {}
    state = json.loads(path.read_text(encoding="utf-8"))
    periods = tuple(Period(**{**p, "challengers": {}}) for p in state["periods"])
    fits = tuple(Fit(**known["fit"]) for known in state["fits"])
    if not fits:
        return {}
    history, saved = History(periods, fits), {}
    for number, known in enumerate(state["fits"]):
        later = [fit.period for fit in fits[number + 1 :] if fit.accepted]
        span = [p for p in periods[fits[number].period : later[0] if later else None] if p.former is not None]
        if known["version"] and span and helped(history, number) is not None:
            lost = sum((p.former - p.served) * p.rows for p in span if p.former is not None)
            saved[int(known["version"])] = lost / sum(p.rows for p in span)
    return saved
