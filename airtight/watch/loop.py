"""The state of a watch: after a day made of the day before's, so that a backfill and a Clear come to the same bytes.

It holds what a policy may know (losses by period, fits) and what follows from it: the regret's CUSUM, open faults, and
the training that a decision asked for. All of it is data time: what is known when the day begins, by intervals that had
ended, and nothing of when the watch itself ran or whether it triggered anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

from airtight.errors import TerminalError
from airtight.watch.brakes import Brakes
from airtight.watch.history import ALL, Fit, History, Period
from airtight.watch.policies import Decision, Policy
from airtight.watch.regret import Day, in_words
from airtight.watch.regret import Settings as RegretSettings
from airtight.watch.regret import State as RegretState
from airtight.watch.regret import after as regret_after

Calibrate = Callable[[Sequence[float], int], RegretSettings | None]
"""Settings of the regret of the differences of fresh days and the days between false alarms; None: not enough data."""


@dataclass(frozen=True)
class Training:
    """What the lineage shows of a training run.

    Args:
      end: End of the interval that it is judged on, ISO 8601.
      version: That it pushed; 0 where the gates refused it, None where nothing is known beyond its start.
    """

    end: str
    version: int | None = None


@dataclass(frozen=True)
class Fault:
    """A fault of a day's data.

    Args:
      day: ISO 8601.
      words: What it is.
      since: The day on which it began, ISO 8601.
      feature: Whose; "" of the number of rows, and in older states of any.
    """

    day: str
    words: str
    since: str
    feature: str = ""


@dataclass(frozen=True)
class Observation:
    """What is known of a day.

    Args:
      day: ISO 8601, local.
      start: Its first instant, ISO 8601.
      end: The first instant after it, ISO 8601.
      served: Version that served when it began; 0 for none.
      rows: Labelled rows on which the served model and the challengers were compared.
      loss: Mean loss of the served model on them.
      challengers: Mean loss of challengers on them, by the length of their history in days.
      former: Mean loss of the model that served before; None where there is none.
      faults: What blocks training.
      accepted: Faults that began by this day, ISO 8601, a person has accepted; "" for none.
      trainings: Those of intervals that had ended when the day began.
    """

    day: str
    start: str
    end: str
    served: int = 0
    rows: int = 0
    loss: float = 0.0
    challengers: dict[int, float] = field(default_factory=dict)
    former: float | None = None
    faults: tuple[Fault, ...] = ()
    accepted: str = ""
    trainings: tuple[Training, ...] = ()


@dataclass(frozen=True)
class Rules:
    """How a watch decides; see `airtight.watch.settings.Watch`."""

    policy: Policy
    brakes: Brakes
    cost: float
    fresh_days: int
    days_between: int
    fault_days: int
    outcome_days: int


@dataclass(frozen=True)
class KnownFit:
    """A fit, and which training it was.

    Args:
      fit: As policies see it.
      version: Of its model; 0 where it pushed none.
      end: End of the interval that it was judged on, ISO 8601; "" of the version with which the watch began.
    """

    fit: Fit
    version: int
    end: str = ""


@dataclass(frozen=True)
class State:
    """What is known after a day.

    Args:
      day: The last day, ISO 8601; "" before the first.
      begun: First instant of the first day, ISO 8601: fits before it are not counted.
      served: Version that served on the last day.
      periods: The days with compared rows, in order.
      fits: In order.
      faults: Open ones: those of the last day on which each was there.
      awaited: End of the interval of the training that a decision asked for and that has no outcome yet; "" for none.
      awaited_length: Of the history that it learns from, in days.
      regret: None before a served version has been compared with settings.
      settings: How the regret is judged; None where there is not enough data.
    """

    day: str = ""
    begun: str = ""
    served: int = 0
    periods: tuple[Period, ...] = ()
    fits: tuple[KnownFit, ...] = ()
    faults: tuple[Fault, ...] = ()
    awaited: str = ""
    awaited_length: int = ALL
    regret: RegretState | None = None
    settings: RegretSettings | None = None

    def to_json(self) -> str:
        """The same bytes for the same state."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> State:
        """The inverse of `to_json`.

        Raises:
          TerminalError: The text is no state.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            of_regret, settings = fields["regret"], fields["settings"]
            return State(
                **{
                    **fields,
                    "periods": tuple(_period(period) for period in fields["periods"]),
                    "fits": tuple(KnownFit(**{**known, "fit": Fit(**known["fit"])}) for known in fields["fits"]),
                    "faults": tuple(_fault(known) for known in fields["faults"]),
                    "regret": RegretState.from_json(json.dumps(of_regret)) if of_regret else None,
                    "settings": RegretSettings(**settings) if settings else None,
                }
            )
        except (ValueError, KeyError, TypeError) as error:
            raise TerminalError(
                "That is no state of a watch.",
                expected="the JSON of airtight.watch.loop.State.to_json",
                received=f"{text[:80]!r}: {error}",
                remedy="Clear the watch's task decide of the day before.",
            ) from error

    @property
    def alarm(self) -> str:
        """Day since when the regret alarms; "" where it does not."""
        return self.regret.alarm if self.regret else ""

    def in_words(self, unit: str = "row") -> str:
        """What the regret says, in a sentence."""
        if not self.served:
            return "No version is served."
        if self.regret is None or self.settings is None:
            return "Not enough data: it is not known yet by how much losses differ while a model is fresh."
        return in_words(self.regret, self.settings, unit)


def after(state: State, seen: Observation, rules: Rules, calibrate: Calibrate) -> tuple[State, Decision]:
    """The state after one more day, and what is decided at its end.

    Args:
      state: After the day before; State() before the first.
      seen: The day.
      rules: How it is decided.
      calibrate: Makes the settings of the regret.

    Raises:
      TerminalError: The day is none after the state's, or a loss is not finite.
    """
    if state.day and seen.day <= state.day:
        raise TerminalError(
            "A day does not come after the day of the state.",
            expected=f"a day after {state.day}",
            received=seen.day,
            remedy="Decide days in their order, each with the state of the day before.",
        )
    state = replace(state, begun=state.begun or seen.start)
    state, in_work = _with_fits(state, seen, rules.outcome_days)
    state = _with_period(state, seen, rules, calibrate)
    state = replace(state, day=seen.day, faults=_open_faults(state, seen, rules.fault_days))
    faults = tuple(f"{fault.day}: {fault.words}" for fault in state.faults)
    if not state.fits:
        reason = f"training is blocked until the data are mended: {'; '.join(faults)}"
        if faults:
            return state, Decision("fix_data", reason)
        return state, Decision("keep", "no version is served yet, so there is nothing to compare with")
    history = History(
        _beyond_equal(state),
        tuple(known.fit for known in state.fits),
        rules.cost,
        training=bool(in_work),
        faults=faults,
    )
    decision = rules.brakes.decide(rules.policy, history)
    if in_work and decision.action == "keep":
        decision = replace(decision, reason=in_work)
    if decision.action == "retrain":
        state = replace(state, awaited=seen.end, awaited_length=decision.length)
    return state, decision


def _beyond_equal(state: State) -> tuple[Period, ...]:
    """The periods as policies see them: challengers lose what models of the served kind would, were they as fresh.

    Adds to each challenger's loss the usual difference: how much less it loses, because it is simpler or knows more
    days, while nothing is wrong (the centre of the regret's settings, measured for ALL). Before these settings are
    known nothing is added.
    """
    if state.settings is None:
        return state.periods
    centre = state.settings.centre
    return tuple(
        replace(period, challengers={length: loss + centre for length, loss in period.challengers.items()})
        for period in state.periods
    )


def _open_faults(state: State, seen: Observation, fault_days: int) -> tuple[Fault, ...]:
    """The day's faults, and those of the last days that nobody accepted and that are not the same ones."""
    last = (date.fromisoformat(seen.day) - timedelta(days=fault_days)).isoformat()
    same = {(fault.feature, fault.since) for fault in seen.faults}
    open_still = (f for f in state.faults if f.day > last and f.since > seen.accepted)
    earlier = (fault for fault in open_still if (fault.feature, fault.since) not in same)
    return (*earlier, *seen.faults)


def _with_fits(state: State, seen: Observation, outcome_days: int) -> tuple[State, str]:
    """Adds fits whose outcome has become known.

    Returns:
      The state, and what training or release is under way, in words; "" for none.
    """
    number, fits = len(state.periods), list(state.fits)
    begun = datetime.fromisoformat(state.begun)
    length = {state.awaited: state.awaited_length} if state.awaited else {}
    ends = {training.version: training.end for training in seen.trainings if training.version}
    if seen.served and seen.served != state.served:
        # Whoever has a lower version served has taken the higher ones back.
        stays = {k.version for k in fits if k.fit.accepted and k.version <= seen.served} | {seen.served}
        fits = [replace(k, fit=replace(k.fit, accepted=k.version in stays)) for k in fits]
        if not any(known.fit.accepted for known in fits):
            # The first, or one that served before the watch began.
            fits.insert(0, KnownFit(Fit(0), seen.served))
        elif all(known.version != seen.served for known in fits):
            end = ends.get(seen.served, "")
            fits.append(KnownFit(Fit(number, length.get(end, ALL)), seen.served, end))
    in_work = ""
    known_ends = {known.end for known in fits}
    for training in sorted(seen.trainings, key=lambda training: datetime.fromisoformat(training.end)):
        ended = datetime.fromisoformat(training.end)
        if ended <= begun or training.end in known_ends or not fits:
            continue
        if training.version and (training.version < seen.served or training.version in {k.version for k in fits}):
            continue
        age = (datetime.fromisoformat(seen.start) - ended).days
        is_refused = training.version == 0
        if not is_refused and age < outcome_days:
            waits = "a release of its version" if training.version else "its gates"
            in_work = f"a training up to {training.end} is under way: {waits} has no outcome yet"
        elif is_refused or training.version or training.end == state.awaited:
            fits.append(KnownFit(Fit(number, length.get(training.end, ALL), accepted=False), 0, training.end))
            known_ends.add(training.end)
    is_over = not in_work or state.awaited in known_ends
    awaited = "" if is_over else state.awaited
    fits.sort(key=lambda known: known.fit.period)
    return replace(state, served=seen.served, fits=tuple(fits), awaited=awaited), in_work


def _with_period(state: State, seen: Observation, rules: Rules, calibrate: Calibrate) -> State:
    """Adds the day's losses. Of a day with faults nothing is compared: what they do is no news about models."""
    if not seen.served:
        return state
    if not seen.rows:
        return state
    challengers = {} if seen.faults else dict(seen.challengers)
    period = Period(seen.day, seen.rows, seen.loss, challengers, None if seen.faults else seen.former)
    new_version = state.regret is None or state.regret.served != str(seen.served)
    state = replace(state, periods=(*state.periods, period))
    settings = state.settings
    if settings is None or new_version:
        settings = calibrate(_fresh_differences(state, rules.fresh_days), rules.days_between) or settings
    if settings is None:
        return state
    rows = seen.rows if ALL in challengers else 0
    day = Day(seen.day, str(seen.served), rows, period.regret())
    return replace(state, settings=settings, regret=regret_after(state.regret, day, settings))


def _fresh_differences(state: State, fresh_days: int) -> list[float]:
    """Regret of the days on which the served model was fresh, in order."""
    accepted = [known.fit.period for known in state.fits if known.fit.accepted]
    ends = [*accepted[1:], len(state.periods)]
    spans = [range(start, min(end, start + fresh_days)) for start, end in zip(accepted, ends, strict=True)]
    fresh = sorted({number for span in spans for number in span})
    return [state.periods[number].regret() for number in fresh if ALL in state.periods[number].challengers]


def _fault(fields: Any) -> Fault:
    # Older states have its day and words alone.
    return Fault(**fields) if isinstance(fields, dict) else Fault(fields[0], fields[1], fields[0])


def _period(fields: dict[str, Any]) -> Period:
    # JSON's names are text.
    return Period(**{**fields, "challengers": {int(n): loss for n, loss in fields["challengers"].items()}})
