"""From an alarm to what came of it: alarm, decision, training run, verdicts, release, outcome; read from artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_metadata as mlmd

from airtight.watch.brakes import helped
from airtight.watch.history import Fit, History, Period
from runtime.lineage.artifacts import Artifact
from runtime.lineage.runs import SUCCEEDED, Run, of_run_id
from runtime.lineage.versions import of_model, of_watch, rests_on

STATE = "state.json"
"""In a `WatchDecision`."""
VERDICTS = ("TrainingClearance", "ValidationReport", "ModelEvaluation", "ModelBlessing", "InfraBlessing")
"""Types of the artifacts that say whether a training may go on, in the order of the steps."""
RELEASES = ("Release", "ReleaseDecision", "Promotion")
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

    @property
    def version(self) -> int:
        """The version that the run pushed; 0 for none."""
        properties = self.pushed.properties if self.pushed else {}
        return int(properties.get("version", 0)) if properties.get("pushed") else 0


def chains(store: mlmd.MetadataStore, model: str, *, watch: str = "", training: str = "") -> list[Chain]:
    """Every day's chain, the newest day first; of a day that was decided again the latest decision.

    Args:
      store: The metadata store.
      model: Name of the model, which is the training pipeline's id.
      watch: Id of the watch's pipeline; "" is `<model>_watch`.
      training: Id of the training pipeline where that is another.
    """
    watch, training = watch or f"{model}_watch", training or model
    by_day = {str(decision.properties["day"]): decision for decision in of_watch(store, watch)}
    days = [by_day[day] for day in sorted(by_day, reverse=True)]
    released = [artifact for kind in RELEASES for artifact in of_model(store, kind, model)]
    fits = _fits(days)
    return [_chain(store, watch, training, decision, released=released, fits=fits) for decision in days]


def _chain(
    store: mlmd.MetadataStore,
    watch: str,
    training: str,
    decision: Artifact,
    *,
    released: Sequence[Artifact],
    fits: dict[int, float],
) -> Chain:
    properties = decision.properties
    made = rests_on(store, watch, decision)
    alarms, losses = (
        made[node].output(kind) if node in made else None
        for node, kind in (("data_alarms", "DataAlarms"), ("challenger", "ChallengerReport"))
    )
    if properties["action"] != "retrain":
        return Chain(decision, alarms, losses, None, (), None, (), "", f"{properties['reason']}.")
    run = of_run_id(store, training, str(properties["run_id"]))
    outputs = _outputs(run)
    verdicts = tuple(outputs[kind] for kind in VERDICTS if kind in outputs)
    pushed = outputs.get("PushedModel")
    version = int(pushed.properties.get("version", 0)) if pushed and pushed.properties.get("pushed") else 0
    releases = tuple(sorted(_about(version, released), key=lambda artifact: artifact.proto.id)) if version else ()
    outcome, words = _outcome(run, pushed, version, releases)
    return Chain(decision, alarms, losses, run, verdicts, pushed, releases, outcome, words, fits.get(version))


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


def _outcome(run: Run | None, pushed: Artifact | None, version: int, releases: Sequence[Artifact]) -> tuple[str, str]:
    if run is None:
        return NOT_BEGUN, "No such run has begun: a backfill or a report triggers none, or it waits in the queue."
    if pushed is None:
        failed = [step.node for step in run.steps.values() if step.state == "failed"]
        if failed:
            return FAILED, f"The run failed at {', '.join(failed)}."
        return UNDER_WAY, f"The run is under way: {', '.join(run.steps)} have begun."
    reason = str(pushed.properties.get("reason", ""))
    if not version:
        return REFUSED, reason
    promotions = [artifact for artifact in releases if artifact.type.name == "Promotion"]
    served = bool(pushed.properties.get("took_over"))
    for promotion in promotions:
        to, took_over = promotion.properties.get("to_version"), promotion.properties.get("took_over")
        if to == version and took_over:
            served, reason = True, str(promotion.properties.get("summary", ""))
        elif to != version and int(to or 0) < version:
            return TAKEN_BACK, str(promotion.properties.get("summary", ""))
    return (SERVES, reason) if served else (AWAITS, reason)


def _fits(days: Sequence[Artifact]) -> dict[int, float]:
    """By version what a row has lost less, or more, since it serves, as the newest decision's state has it."""
    if not days:
        return {}
    path = Path(days[0].uri, STATE)
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
