"""Alarms about a day's data: hard rules, and changes that are rare for each feature's own past, under one budget.

Each figure of a day (`day_statistics`) is predicted from the days before, by its level and the weekday's, and its error
is set against the errors of its own last 90 days. The day's score is the largest of all. A score is an alarm when it
ranks so high among the scores of the past year's days that a usual day does so as rarely as the budget says.

A day on which a feature has a fault is no part of what its later days are compared with. So a fault stays open until
the feature is as it was before, or until a person accepts that it is another one now.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np

from airtight.errors import TerminalError
from components.watch.clean_past import POOL_DAYS, CleanPast, touched
from components.watch.day_statistics import Key, floor, of_source, statistics
from components.watch.day_summary import DaySummary
from components.watch.fault_rules import FAULTS, LEAST_ROWS, ROWS, Finding, is_fault, of_features, of_rows

JUDGEMENT, STATE = "judgement.json", "state.npz"
"""In `DataAlarms`."""
ERROR_DAYS, YEAR_DAYS = 90, 365
LEAST_DAYS, LEAST_SOURCE_DAYS = 28, 60
"""Days of which a figure needs errors before its next one is judged, and one that compares sources."""
LEVEL, WEEKDAY = 0.3, 0.2
"""Weights of the newest day in the level, and of the newest such weekday in the weekday's part."""
USUAL = 0.98
"""Quantile of the errors that a new one is set against."""
FOREMOST = 5
"""Figures with the largest scores that are named; faults are named beside them."""


@dataclass(frozen=True)
class Judgement:
    """What is said of a day.

    Args:
      day: ISO 8601.
      findings: What is wrong, hard rules first; an alarm where there are any.
      score: Of the day; NaN where there is not enough data.
      threshold: Scores above it are alarms; infinite as long as there are too few days for the budget.
      foremost: The figures with the largest scores, with their scores, also where there is no alarm.
      enough: Why there is not enough data, in words; empty where there is.
      accepted: Features whose open fault a person accepted: from this day on they are compared with how they are since.
    """

    day: str
    findings: tuple[Finding, ...]
    score: float
    threshold: float
    foremost: tuple[tuple[str, float], ...] = ()
    enough: str = ""
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """What is kept of the days up to one; that of a day is made of the day before's.

    Args:
      day: The last day, ISO 8601; "" before the first.
      keys: Feature and figure of each column.
      level: [figures], NaN before the first value.
      weekday: Parts of the weekdays, [7, figures].
      errors: Of the last days, [days, figures], NaN where a figure was not there or not predicted; of a feature with
        an open fault those of the days before.
      scores: Of a year of days without a fault, [days].
      clean: Days that features are compared with, and open faults.
      version: Of the model whose predictions the last day had; 0 for none.
    """

    day: str = ""
    keys: tuple[Key, ...] = ()
    level: np.ndarray = field(default_factory=lambda: np.empty(0))
    weekday: np.ndarray = field(default_factory=lambda: np.empty((7, 0)))
    errors: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))
    clean: CleanPast = field(default_factory=CleanPast)
    version: int = 0

    def to_bytes(self) -> bytes:
        """A .npz without pickles; the same bytes for the same state."""
        buffer = io.BytesIO()
        arrays = {name: getattr(self, name) for name in ("level", "weekday", "errors", "scores")}
        keys = np.array(self.keys or np.empty((0, 2)), np.str_)
        clean = np.frombuffer(self.clean.to_bytes(), np.uint8)
        np.savez_compressed(buffer, day=np.array(self.day), keys=keys, clean=clean, version=self.version, **arrays)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> State:
        """The inverse of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            keys = tuple((str(feature), str(figure)) for feature, figure in file["keys"])
            state = State(str(file["day"]), keys, file["level"], file["weekday"], file["errors"], file["scores"])
            if "clean" not in file:  # An older state.
                return state
            clean = CleanPast.from_bytes(file["clean"].tobytes())
            return replace(state, clean=clean, version=int(file["version"]))


def after(
    state: State, day: DaySummary, past: Sequence[DaySummary], alarms_a_year: float = 4.0, accepted: str = ""
) -> tuple[State, Judgement]:
    """Judges a day, and adds it to what is kept.

    Args:
      state: After the day before.
      day: The day; all its rows, with labels or without.
      past: The summaries of the days before it, in order; the last POOL_DAYS of them count.
      alarms_a_year: The budget: how many usual days may alarm by chance, over all features and figures.
      accepted: Faults that are open and began by this day, ISO 8601, a person has accepted; "" for none.

    Raises:
      TerminalError: The day does not come after the state's.
    """
    if day.day <= state.day:
        raise TerminalError(
            "A day does not come after the day of the state.",
            expected=f"a day after {state.day}",
            received=day.day,
            remedy="Judge days in their order, each with the state of the day before.",
        )
    past = [known for known in past[-POOL_DAYS:] if known.rows >= LEAST_ROWS]
    clean = state.clean
    of_count = of_rows(day, clean.of(ROWS, past))
    acceptable = {name for name, since in clean.since.items() if since <= accepted}
    if day.rows < LEAST_ROWS or not past:
        if acceptable:
            return _having_accepted(state, acceptable, day, past, alarms_a_year)
        few = f"{day.rows} rows" if day.rows < LEAST_ROWS else "no day before it"
        findings = (*(_dated(finding, clean) for finding in of_count), *_unjudged(clean, few))
        judgement = Judgement(day.day, findings, math.nan, math.inf, (), f"not enough data: {few}")
        return replace(state, day=day.day, clean=clean.after_few(day, past, faulty=bool(of_count))), judgement
    figures = statistics(day, clean.pool(past, day.version))
    state = _widened(_of_version(state, day), tuple(figures))
    values = np.array([figures.get(key, math.nan) for key in state.keys])
    today = date.fromisoformat(day.day).weekday()
    predicted = state.level + state.weekday[today]
    errors = values - predicted
    scores = _scores(state, errors, day.rows)
    score = float(np.nanmax(scores)) if np.isfinite(scores).any() else math.nan
    threshold = alarm_threshold(state.scores, alarms_a_year)
    hard = (*of_count, *of_features(day, lambda name: clean.of(name, past), figures))
    order = [place for place in np.argsort(-np.nan_to_num(scores, nan=-1.0)) if np.isfinite(scores[place])]
    shown = [*order[:FOREMOST], *(place for place in order[FOREMOST:] if state.keys[place][1] in FAULTS)]
    above = [(state.keys[place], values[place], predicted[place]) for place in shown if scores[place] > threshold]
    ruled = {(finding.feature, finding.what) for finding in hard}
    soft = tuple(
        Finding(key[0], key[1], _in_words(key, value, usual), False) for key, value, usual in above if key not in ruled
    )
    faulty = {finding.feature for finding in (*hard, *soft) if is_fault(finding)}
    if usual_now := faulty & acceptable:
        return _having_accepted(state, usual_now, day, past, alarms_a_year)
    enough = "" if math.isfinite(threshold) and math.isfinite(score) else _few(state, alarms_a_year)
    foremost = tuple((" ".join(state.keys[place]).strip(), float(scores[place])) for place in order[:FOREMOST])
    findings = tuple(_dated(finding, clean) for finding in (*hard, *soft))
    judgement = Judgement(day.day, findings, score, threshold, foremost, enough)
    state = replace(state, clean=clean.after(day, past, faulty))
    return _with(state, day.day, values, errors, score, touched(day, faulty)), judgement


def _having_accepted(
    state: State, features: Collection[str], day: DaySummary, past: Sequence[DaySummary], alarms_a_year: float
) -> tuple[State, Judgement]:
    """As `after`, where the open faults of some features are accepted."""
    names = touched(day, features)
    known = replace(_without(state, names), clean=state.clean.accepting(names, past))
    state, judgement = after(known, day, past, alarms_a_year)
    return state, replace(judgement, accepted=tuple(sorted(features)))


def _in_words(key: Key, value: float, usual: float) -> str:
    if source := of_source(key):
        differs = f"{source} differs from the other sources by {value:.3g} of the usual spread"
        return f"{key[0]}: {differs}, expected {usual:.3g}"
    return f"{key[0] or 'the day'}: {key[1]} is {value:.3g}, expected {usual:.3g}"


def _unjudged(clean: CleanPast, few: str) -> list[Finding]:
    """The faults that are open still, for all that a day without enough rows says; the number of rows says its own."""
    return [
        Finding(name, "open", f"{name}: the fault since {since} is open, and {few} cannot say that it is over", True)
        for name, since in clean.since.items()
        if name != ROWS
    ]


def _dated(finding: Finding, clean: CleanPast) -> Finding:
    """The finding with the day on which its fault began, where that was before."""
    if not is_fault(finding) or finding.feature not in clean.since:
        return finding
    return replace(finding, words=f"{finding.words}, since {clean.since[finding.feature]}")


def _scores(state: State, errors: np.ndarray, rows: int) -> np.ndarray:
    known = np.isfinite(state.errors).sum(axis=0) if len(state.errors) else np.zeros(len(errors))
    usual = np.full(len(errors), math.nan)
    compares = np.array([bool(of_source(key)) for key in state.keys], bool)
    ready = (known >= np.where(compares, LEAST_SOURCE_DAYS, LEAST_DAYS)) & np.isfinite(errors)
    if ready.any():
        past = np.abs(state.errors[:, ready])
        # One source's shower is rarer and larger than what all have on a day: the largest error is the measure of it.
        usual[ready] = np.where(compares[ready], np.nanmax(past, axis=0), np.nanquantile(past, USUAL, axis=0))
    floors = np.array([floor(key, rows) for key in state.keys])
    scores: np.ndarray = np.abs(errors) / (usual + floors)
    return scores


def alarm_threshold(scores: np.ndarray, alarms_a_year: float) -> float:
    """The past score that a new one exceeds as rarely as wanted: the k-th largest of n, k / (n + 1) often.

    Args:
      scores: Of past days, [days]; NaN counts as none.
      alarms_a_year: How many usual days may alarm.

    Returns:
      Infinite where there are too few days for the budget.
    """
    known = np.sort(scores[np.isfinite(scores)])
    rank = math.floor(alarms_a_year / YEAR_DAYS * (len(known) + 1))
    return float(known[-rank]) if rank >= 1 else math.inf


def _few(state: State, alarms_a_year: float) -> str:
    wanted = math.ceil(YEAR_DAYS / alarms_a_year) - 1
    known = int(np.isfinite(state.scores).sum())
    return f"not enough data: {known} of {wanted} days with a score; hard rules alone hold"


def _widened(state: State, keys: tuple[Key, ...]) -> State:
    """The state with columns for figures that are new."""
    new = tuple(key for key in keys if key not in set(state.keys))
    if not new:
        return state
    more = len(new)
    errors = np.hstack(
        [state.errors.reshape(len(state.errors), len(state.keys)), np.full((len(state.errors), more), math.nan)]
    )
    level = np.append(state.level, np.full(more, math.nan))
    weekday = np.hstack([state.weekday, np.zeros((7, more))])
    return replace(state, keys=(*state.keys, *new), level=level, weekday=weekday, errors=errors)


def _of_version(state: State, day: DaySummary) -> State:
    """The state, where another version predicts without the levels of the predictions: its own begin with the day."""
    if not day.predicted or day.version == state.version:
        return state
    level = np.where([feature in day.predicted for feature, _ in state.keys], math.nan, state.level)
    return replace(state, level=level, version=day.version)


def _without(state: State, features: Collection[str]) -> State:
    """The state without the figures of some features."""
    return narrowed(state, np.array([feature not in features for feature, _ in state.keys], bool))


def narrowed(state: State, stays: np.ndarray) -> State:
    """The state with some of its figures alone, bool [figures]."""
    keys = tuple(key for key, is_kept in zip(state.keys, stays, strict=True) if is_kept)
    level, weekday, errors = state.level[stays], state.weekday[:, stays], state.errors[:, stays]
    return replace(state, keys=keys, level=level, weekday=weekday, errors=errors)


def _with(
    state: State, day: str, values: np.ndarray, errors: np.ndarray, score: float, faulty: Collection[str]
) -> State:
    """The state with the day; what a fault does is no measure of usual days."""
    frozen = np.array([feature in faulty for feature, _ in state.keys])
    values, errors = np.where(frozen, math.nan, values), np.where(frozen, math.nan, errors)
    today = date.fromisoformat(day).weekday()
    there, fresh = np.isfinite(values), np.isnan(state.level)
    level = np.where(fresh & there, values, state.level)
    known = there & ~fresh
    level[known] += LEVEL * errors[known]
    weekday = state.weekday.copy()
    deviations = values - state.level
    weekday[today, known] += WEEKDAY * (deviations[known] - weekday[today, known])
    kept = np.vstack([state.errors, errors[None]])[-ERROR_DAYS:]
    if len(kept) == len(state.errors):
        # Those of an open fault would run out.
        kept[:, frozen] = state.errors[:, frozen]
    scores = state.scores if faulty else np.append(state.scores, score)[-YEAR_DAYS:]
    state = replace(state, day=day, level=level, weekday=weekday, errors=kept, scores=scores)
    # Sources come and go: what was not there on any of these days would be kept for ever.
    return narrowed(state, there | np.isfinite(kept).any(axis=0))
