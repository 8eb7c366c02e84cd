"""decide: says at the end of a watched day whether to retrain, keep the model, or have the data mended."""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

import numpy as np
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.interval import time_zone
from airtight.watch import loop, regret
from airtight.watch.brakes import Brakes
from airtight.watch.policies import Decision, policy_of
from components.artifacts import ChallengerReport, DataAlarms, Dataset, WatchDecision
from components.data import examples as reading
from components.watch import challengers
from components.watch.calibration import calibrate
from components.watch.data_alarms import JUDGEMENT

log = logging.getLogger(__name__)

DECISION, STATE = "decision.json", "state.json"


@component
def decide(
    report: InputArtifact[ChallengerReport],
    alarms: InputArtifact[DataAlarms],
    decision: OutputArtifact[WatchDecision],
    model_name: Parameter[str],
    zone: Parameter[str],
    policy: Parameter[str],
    brakes: Parameter[str] = "{}",
    cost: Parameter[float] = 0.0,
    judge_days: Parameter[int] = 7,
    fresh_days: Parameter[int] = 28,
    days_between: Parameter[int] = 200,
    fault_days: Parameter[int] = 3,
    outcome_days: Parameter[int] = 3,
    unit: Parameter[str] = "row",
    before: InputArtifact[List[WatchDecision]] = None,  # noqa: UP006
    pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
    datasets: InputArtifact[List[Dataset]] = None,  # noqa: UP006
) -> None:
    """Asks the policy, held by its brakes, with what was known when the day was over; it triggers nothing itself.

    What it writes rests on the day, the day before's decision, and the trainings of intervals that had ended when the
    day began; so a backfill writes the same bytes, as long as a training ends within a day.

    Args:
      report: What models lose on the day.
      alarms: What is wrong with the day's data.
      decision: Receives `decision.json`, and `state.json` for the day after.
      model_name: The served model.
      zone: IANA time zone of the days.
      policy: `package.module:function?name=value` (`airtight.watch.policies`).
      brakes: Fields of `airtight.watch.brakes.Brakes`, JSON.
      cost: Of a fit: the sum of losses per row and period that it must save.
      judge_days: The last days up to the decision on which the new model is judged.
      fresh_days: Days for which a served model counts as fresh.
      days_between: Mean days between false alarms of the regret.
      fault_days: Days for which a fault of the data blocks training.
      outcome_days: Days within which a training must have come to an end.
      unit: What a row is.
      before: What was decided on the day before; none on the first day.
      pushed: What trainings pushed, or did not.
      datasets: What trainings began with.

    Raises:
      TerminalError: There is no such policy, the day does not come after the day before, or the policy decided what is
        no decision.
    """
    rules = loop.Rules(
        policy_of(policy), Brakes(**json.loads(brakes)), cost, fresh_days, days_between, fault_days, outcome_days
    )
    start, end = (datetime.fromisoformat(instant) for instant in reading.interval_of(report))
    losses = json.loads((Path(report.uri) / challengers.FILE).read_text(encoding="utf-8"))
    judgement = json.loads((Path(alarms.uri) / JUDGEMENT).read_text(encoding="utf-8"))
    seen = loop.Observation(
        report.day,
        _utc(start),
        _utc(end),
        report.version,
        report.rows,
        losses["served"],
        {int(length): loss for length, loss in losses["challengers"].items()},
        losses["former"],
        _faults(judgement, report.day),
        judgement.get("faults_accepted_by", ""),
        tuple(trainings(pushed or [], datasets or [], start)),
    )
    known = Path(before[0].uri, STATE).read_text(encoding="utf-8") if before else ""
    state, decided = loop.after(loop.State.from_json(known) if known else loop.State(), seen, rules, _calibrated)
    _check(decided, policy)
    gap = _gap(before[0].day if before else "", report.day)
    decision.interval_start, decision.interval_end = reading.interval_of(report)
    decision.day, decision.model, decision.version = report.day, model_name, report.version
    decision.action, decision.reason, decision.policy = decided.action, f"{decided.reason}{gap}", policy
    decision.alarm, decision.data_alarm = int(bool(state.alarm)), int(alarms.alarm)
    decision.alarm_since, decision.regret = state.alarm, state.in_words(unit)
    decision.run_id, decision.trains, decision.window_days = "", "", 0
    if decided.action == "retrain":
        local = end.astimezone(time_zone(zone))
        decision.run_id = f"watch__{report.day}__{hashlib.sha256(policy.encode()).hexdigest()[:8]}"
        decision.trains = f"{(local - timedelta(days=judge_days)).isoformat()}/{local.isoformat()}"
        decision.window_days = decided.length
    folder = Path(decision.uri)
    write_text(folder / STATE, state.to_json())
    # Of trainings only what follows from them: later ones of old intervals change nothing that was decided.
    seen = replace(seen, trainings=())
    record = {**asdict(seen), "decision": asdict(decided), "gap": gap, "alarm": state.alarm, "regret": decision.regret}
    record |= {name: getattr(decision, name) for name in ("policy", "run_id", "trains", "window_days")}
    write_text(folder / DECISION, json.dumps(record, indent=1, sort_keys=True))
    log.info("%s", decision.regret)
    log.info("%s: %s.", decided.action, decision.reason)


def trainings(
    pushed: Iterable[standard_artifacts.PushedModel], datasets: Iterable[Dataset], instant: datetime
) -> list[loop.Training]:
    """What the lineage shows of trainings whose interval had ended by an instant, each interval once, in order.

    Args:
      pushed: `PushedModel` of all runs; of one interval the latest counts.
      datasets: `Dataset` of all runs: a training without a push has begun.
      instant: In data time.
    """
    versions: dict[datetime, int | None] = {}
    for dataset in datasets:
        versions[datetime.fromisoformat(reading.interval_of(dataset)[1])] = None
    for push in sorted(pushed, key=lambda push: push.id):
        version = push.get_int_custom_property("version") if push.get_int_custom_property("pushed") else 0
        versions[datetime.fromisoformat(reading.interval_of(push)[1])] = version
    return [loop.Training(_utc(end), version) for end, version in sorted(versions.items()) if end <= instant]


def _faults(judgement: dict[str, Any], day: str) -> tuple[loop.Fault, ...]:
    """The faults of a day; older judgements do not say when they began and whose they are."""
    words = judgement["faults"]
    since, features = (
        judgement.get(name, [none] * len(words)) for name, none in (("faults_since", day), ("faults_of", ""))
    )
    return tuple(loop.Fault(day, *fields) for fields in zip(words, since, features, strict=True))


def _calibrated(differences: Sequence[float], days_between: int) -> regret.Settings | None:
    return calibrate(np.array(differences), days_between)


def _check(decided: Decision, policy: str) -> None:
    if decided.action not in ("retrain", "keep", "fix_data") or decided.length < 0:
        raise TerminalError(
            f"The policy {policy} decided what is no decision.",
            expected="retrain, keep or fix_data, and a length of history of at least 0 days",
            received=str(decided),
            remedy="Correct the policy.",
        )


def _gap(before: str, day: str) -> str:
    """Which days were not watched, in words; "" for none."""
    if not before:
        return ""
    missed = (datetime.fromisoformat(day) - datetime.fromisoformat(before)).days - 1
    return f" (the {missed} days after {before} were not watched)" if missed > 0 else ""


def _utc(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat()
