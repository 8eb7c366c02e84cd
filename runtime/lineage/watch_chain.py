"""From an alarm to what came of it: alarm, decision, training run, verdicts, release, outcome; read from artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import ml_metadata as mlmd

from airtight.watch.brakes import helped
from airtight.watch.history import Fit, History, Period
from runtime.attempt_names import CONTEXT_TYPE
from runtime.lineage.artifacts import INPUT_EVENTS, Artifact, ByKey, Scalar, by_key, scalars
from runtime.lineage.costs import executions_that_made
from runtime.lineage.runs import SUCCEEDED, Run, of_run_id
from runtime.lineage.versions import of_model, of_watch

STATE = "state.json"
"""In a `WatchDecision`."""
VERDICTS = ("TrainingClearance", "ValidationReport", "ModelEvaluation", "ModelBlessing", "InfraBlessing")
"""Types of the artifacts that say whether a training may go on, in the order of the steps."""
RELEASES = ("Release", "ReleaseDecision", "Promotion")
JUDGED = "PromotionOutcome"
BACKFILL = "backfill__"
"""How Airflow begins the ids of a backfill's runs."""
NOT_BEGUN, UNDER_WAY, FAILED, REFUSED, AWAITS, SERVES, TAKEN_BACK = (
    *("not begun", "under way", "failed", "refused", "awaits a release", "serves", "taken back"),
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
      settled_by: The push or promotion that made the outcome so; None where there is none.
      judged: The last that was said of it beside the former champion; None where it was not compared yet.
      decided_by: Labels of the attempt that decided, such as `run_id` of the watch's run.
      outcome: NOT_BEGUN, UNDER_WAY, FAILED, REFUSED, AWAITS, SERVES or TAKEN_BACK; "" of a decision that wants no run.
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
    settled_by: Artifact | None = None
    judged: Artifact | None = None
    decided_by: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def is_backfilled(self) -> bool:
        """Whether a backfill decided, which triggers nothing."""
        return str(self.decided_by.get("run_id", "")).startswith(BACKFILL)

    @property
    def version(self) -> int:
        """The version that the run pushed; 0 for none."""
        properties = self.pushed.properties if self.pushed else {}
        return int(properties.get("version", 0)) if properties.get("pushed") else 0


def chains(store: mlmd.MetadataStore, model: str, *, watch: str = "", training: str = "") -> list[Chain]:
    """Every day's chain, the newest day first.

    Args:
      store: The metadata store.
      model: Name of the model, which is the training pipeline's id.
      watch: Id of the watch's pipeline; "" is `<model>_watch`.
      training: Id of the training pipeline where that is another.
    """
    days = of_each_day(of_watch(store, watch or f"{model}_watch"))[::-1]
    released = [artifact for kind in (*RELEASES, JUDGED) for artifact in of_model(store, kind, model)]
    return chains_of(store, training or model, days, released, losses_saved(days[0]) if days else {})


def of_each_day(decisions: Sequence[Artifact]) -> list[Artifact]:
    """Of each day the decision that holds, in the order of days.

    Of a day that was decided again that is the last one; where earlier ones said the same, the first of them, which
    triggered what it says.

    Args:
      decisions: The oldest first.
    """

    def content(decision: Artifact) -> tuple[Scalar, ...]:
        return tuple(decision.properties.get(name, "") for name in ("day", "action", "reason", "run_id"))

    last = {str(decision.properties["day"]): content(decision) for decision in decisions}
    first = {content(decision): decision for decision in reversed(decisions)}
    return [first[last[day]] for day in sorted(last)]


def chains_of(
    store: mlmd.MetadataStore,
    training: str,
    decisions: Sequence[Artifact],
    released: Sequence[Artifact],
    saved: Mapping[int, float],
) -> list[Chain]:
    """The chains of some decisions, in their order; the cost is theirs, however many there are.

    Args:
      store: The metadata store.
      training: Id of the training pipeline.
      decisions: The decisions.
      released: Artifacts of `RELEASES` and `JUDGED` that count.
      saved: As `losses_saved` gives it.
    """
    makers = executions_that_made(store, decisions)
    inputs = by_key(store, makers.values(), INPUT_EVENTS)
    return [
        _chain(
            *(store, training, decision, inputs.get(makers.get(decision.proto.id, 0), {})),
            labels=_labels(store, makers.get(decision.proto.id, 0)),
            released=released,
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
    version = int(pushed.properties.get("version", 0)) if pushed and pushed.properties.get("pushed") else 0
    releases = tuple(sorted(_about(version, released), key=lambda artifact: artifact.proto.id)) if version else ()
    judged = [a for a in released if a.type.name == JUDGED and version and a.properties.get("version") == version]
    outcome, words, settled_by = _outcome(run, pushed, version, releases)
    return Chain(
        *(*seen, run, verdicts, pushed, releases, outcome, words, saved.get(version), settled_by),
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
    """What releases and promotions have to do with a version."""
    trials = {
        artifact.properties.get("release")
        for artifact in released
        if artifact.type.name == "Release" and artifact.properties.get("candidate") == version
    } - {"", None}
    return [
        artifact
        for artifact in released
        if version in (artifact.properties.get(name) for name in ("candidate", "to_version", "from_version"))
        or artifact.properties.get("release") in trials
        or str(artifact.properties.get("approval", "")).removeprefix("release ") in trials
    ]


def _outcome(
    run: Run | None, pushed: Artifact | None, version: int, releases: Sequence[Artifact]
) -> tuple[str, str, Artifact | None]:
    if run is None:
        return NOT_BEGUN, "No such run has begun: a backfill or a report triggers none, or it waits in the queue.", None
    if pushed is None:
        failed = [step.node for step in run.steps.values() if step.state == "failed"]
        if failed:
            return FAILED, f"The run failed at {', '.join(failed)}.", None
        return UNDER_WAY, f"The run is under way: {', '.join(run.steps)} have begun.", None
    if not version:
        return REFUSED, str(pushed.properties.get("reason", "")), pushed
    promotions = [artifact for artifact in releases if artifact.type.name == "Promotion"]
    outcome, settled_by = SERVES if pushed.properties.get("took_over") else AWAITS, pushed
    for promotion in promotions:
        to, took_over = promotion.properties.get("to_version"), promotion.properties.get("took_over")
        if to == version and took_over:
            outcome, settled_by = SERVES, promotion
        elif to != version and int(to or 0) < version:
            outcome, settled_by = TAKEN_BACK, promotion
            break
    reason = settled_by.properties.get("reason" if settled_by is pushed else "summary", "")
    return outcome, str(reason), settled_by


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


def in_words(chain: Chain) -> str:
    """A chain in one line, for logs and commands."""
    properties = chain.decision.properties
    parts = [f"{properties['day']}: {properties['action']} ({properties['reason']})"]
    if chain.run is not None:
        parts.append(f"run {chain.run.labels.get('run_id', chain.run.key)}")
    if chain.outcome:
        parts.append(f"{chain.outcome}: {chain.words}")
    if chain.saved is not None:
        parts.append(f"saves {chain.saved:.3g} a row so far")
    return " -> ".join(parts)
