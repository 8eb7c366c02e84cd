"""Alarms about a day's data: hard rules, and changes that are rare for each feature's own past, under one budget.

Each figure of a day (`day_statistics`) is predicted from the days before, by its level and the weekday's, and its error
is set against the errors of its own last 90 days. The day's score is the largest of all. A score is an alarm when it
ranks so high among the scores of the past year's days that a usual day does so as rarely as the budget says.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from airtight.errors import TerminalError
from components.watch import day_statistics
from components.watch.day_statistics import CODE, MISSING, NEW, NON_FINITE, VOLUME, Key, floor, pooled, statistics
from components.watch.day_summary import DaySummary, Numbers, values_of

JUDGEMENT, STATE = "judgement.json", "state.npz"
"""In `DataAlarms`."""
POOL_DAYS = 28
"""Days that are pooled as the past of distances, new values and hard rules."""
ERROR_DAYS, YEAR_DAYS = 90, 365
LEAST_DAYS = 28
"""Days of which a figure needs errors before its next one is judged."""
LEVEL, WEEKDAY = 0.3, 0.2
"""Weights of the newest day in the level, and of the newest such weekday in the weekday's part."""
USUAL = 0.98
"""Quantile of the errors that a new one is set against."""
LEAST_PAST = 14
"""Days without which hard rules, but for that of the volume, say nothing."""
LEAST_ROWS = 20
"""A day of fewer rows is not judged, but for their number."""
MORE_MISSING, MORE_NEW, TIMES = 0.1, 0.05, 2.0
"""Hard rules: shares beyond so many times the most of the last days, and rows against those of the same weekdays.
MORE_NEW is also the share of one value below 0, where none was before."""
LOW = 0.05
"""Quantile of the past below which the median of a day is no usual one."""


FAULTS = (MISSING, NON_FINITE, NEW, CODE)
"""Figures that faults of a feed move rather than the world: a score of one of them that alarms is a fault, too."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a day's data.

    Args:
      feature: Its name; "" for the day's rows.
      what: The rule or figure.
      words: A sentence with the figures.
      hard: Whether a hard rule says so; otherwise a score.
    """

    feature: str
    what: str
    words: str
    hard: bool


def is_fault(finding: Finding) -> bool:
    """Whether a finding is a fault of the data, which blocks training; others may be the world's."""
    return finding.hard or finding.what in FAULTS


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
    """

    day: str
    findings: tuple[Finding, ...]
    score: float
    threshold: float
    foremost: tuple[tuple[str, float], ...] = ()
    enough: str = ""


@dataclass(frozen=True)
class State:
    """What is kept of the days up to one; that of a day is made of the day before's.

    Args:
      day: The last day, ISO 8601; "" before the first.
      keys: Feature and figure of each column.
      level: [figures], NaN before the first value.
      weekday: Parts of the weekdays, [7, figures].
      errors: Of the last days, [days, figures], NaN where a figure was not there or not predicted.
      scores: Of the last year's days, [days]; NaN of those that hard rules found faults in.
    """

    day: str = ""
    keys: tuple[Key, ...] = ()
    level: np.ndarray = field(default_factory=lambda: np.empty(0))
    weekday: np.ndarray = field(default_factory=lambda: np.empty((7, 0)))
    errors: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    scores: np.ndarray = field(default_factory=lambda: np.empty(0))

    def to_bytes(self) -> bytes:
        """A .npz without pickles; the same bytes for the same state."""
        buffer = io.BytesIO()
        arrays = {name: getattr(self, name) for name in ("level", "weekday", "errors", "scores")}
        keys = np.array(self.keys or np.empty((0, 2)), np.str_)
        np.savez_compressed(buffer, day=np.array(self.day), keys=keys, **arrays)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> State:
        """The inverse of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            keys = tuple((str(feature), str(figure)) for feature, figure in file["keys"])
            return State(str(file["day"]), keys, file["level"], file["weekday"], file["errors"], file["scores"])


def after(
    state: State, day: DaySummary, past: Sequence[DaySummary], alarms_a_year: float = 4.0
) -> tuple[State, Judgement]:
    """Judges a day, and adds it to what is kept.

    Args:
      state: After the day before.
      day: The day; all its rows, with labels or without.
      past: The summaries of the days before it, in order; the last POOL_DAYS of them count.
      alarms_a_year: The budget: how many usual days may alarm by chance, over all features and figures.

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
    if day.rows < LEAST_ROWS or not past:
        findings = _volume(day, past)
        few = f"{day.rows} rows" if day.rows < LEAST_ROWS else "no day before it"
        return _dated(state, day.day), Judgement(day.day, findings, math.nan, math.inf, (), f"not enough data: {few}")
    figures = statistics(day, pooled(past))
    state = _widened(state, tuple(figures))
    values = np.array([figures.get(key, math.nan) for key in state.keys])
    today = date.fromisoformat(day.day).weekday()
    predicted = state.level + state.weekday[today]
    errors = values - predicted
    scores = _scores(state, errors, day.rows)
    score = float(np.nanmax(scores)) if np.isfinite(scores).any() else math.nan
    threshold = alarm_threshold(state.scores, alarms_a_year)
    hard = (*_volume(day, past), *(_hard(day, past, figures) if len(past) >= LEAST_PAST else ()))
    order = [place for place in np.argsort(-np.nan_to_num(scores, nan=-1.0))[:5] if np.isfinite(scores[place])]
    above = [(state.keys[place], values[place], predicted[place]) for place in order if scores[place] > threshold]
    ruled = {(finding.feature, finding.what) for finding in hard}
    soft = tuple(
        Finding(feature, figure, f"{feature or 'the day'}: {figure} is {value:.3g}, expected {usual:.3g}", False)
        for (feature, figure), value, usual in above
        if (feature, figure) not in ruled
    )
    enough = "" if math.isfinite(threshold) and math.isfinite(score) else _few(state, alarms_a_year)
    foremost = tuple((" ".join(state.keys[place]).strip(), float(scores[place])) for place in order)
    judgement = Judgement(day.day, (*hard, *soft), score, threshold, foremost, enough)
    # What a fault does is no measure of usual days.
    return _with(state, day.day, values, errors, math.nan if hard else score), judgement


def _scores(state: State, errors: np.ndarray, rows: int) -> np.ndarray:
    known = np.isfinite(state.errors).sum(axis=0) if len(state.errors) else np.zeros(len(errors))
    usual = np.full(len(errors), math.nan)
    ready = (known >= LEAST_DAYS) & np.isfinite(errors)
    if ready.any():
        usual[ready] = np.nanquantile(np.abs(state.errors[:, ready]), USUAL, axis=0)
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


def _hard(day: DaySummary, past: Sequence[DaySummary], figures: dict[Key, float]) -> tuple[Finding, ...]:
    findings = []

    def find(feature: str, rule: str, words: str) -> None:
        findings.append(Finding(feature, rule, f"{feature}: {words}", True))

    for name, numbers in day.numbers.items():
        known = [one.numbers[name] for one in past if name in one.numbers]
        there = [one for one in known if one.there]
        if numbers.non_finite and not any(one.non_finite for one in known):
            find(name, NON_FINITE, f"{numbers.non_finite} values are infinite, and none was in {len(known)} days")
        if len(numbers.buckets) == 1 and numbers.there >= LEAST_ROWS and all(len(one.buckets) > 1 for one in there):
            find(name, "constant", "all values are the same, as on no day before")
        if not numbers.there and len(there) * 2 > len(known):
            find(name, "dead", "no row has a value")
        if len(there) >= LEAST_PAST and (words := _below_zero(numbers, there)):
            find(name, CODE, words)
    for name, categories in day.categories.items():
        present = [one.categories[name] for one in past if name in one.categories and one.categories[name].counts]
        if not categories.counts and len(present) * 2 > len(past):
            find(name, "dead", "no row has a value")
        elif len(categories.counts) == 1 and present and all(len(one.counts) > 1 for one in present):
            find(name, "constant", "all rows have the same value, as on no day before")
    for (name, figure), value in figures.items():
        beyond = {MISSING: MORE_MISSING, NEW: MORE_NEW}.get(figure)
        if beyond is None or any(finding.feature == name for finding in findings):
            continue
        most = max((_share(one, name) for one in past), default=0.0) if figure == MISSING else 0.0
        if value > TIMES * most + beyond:
            words = "is missing in" if figure == MISSING else "has values that no day before had in"
            find(name, figure, f"{words} {value:.1%} of rows, at most {most:.1%} before")
    return tuple(findings)


def _below_zero(numbers: Numbers, past: Sequence[Numbers]) -> str:
    """Says that -1, or another value below 0, stands for what is missing, as on no day before; "" where none does.

    The other values are where they always were: on the first day of frost they are not.
    """
    below = [(count, key) for key, count in numbers.buckets.items() if key < 0]
    rows = numbers.there + numbers.missing + numbers.non_finite
    if len(below) != 1 or below[0][0] <= MORE_NEW * rows or any(key < 0 for one in past for key in one.buckets):
        return ""
    (count, code), pool = below[0], Numbers()
    for one in past:
        pool.merge(one)
    others = Numbers(buckets=numbers.buckets - Counter({code: count}))
    quantiles = day_statistics.quantiles
    if not others.there or quantiles(*others.histogram(), [0.5]) < quantiles(*pool.histogram(), [LOW]):
        return ""
    value = float(values_of(np.array([code]))[0])
    return f"is {value:.3g} in {count / rows:.1%} of rows, and no value was below 0 in {len(past)} days"


def _share(day: DaySummary, name: str) -> float:
    """Share of rows without a value."""
    of = day.numbers.get(name) or day.categories.get(name)
    return of.missing / day.rows if of and day.rows else 0.0


def _volume(day: DaySummary, past: Sequence[DaySummary]) -> tuple[Finding, ...]:
    today = date.fromisoformat(day.day).weekday()
    same = [known.rows for known in past if date.fromisoformat(known.day).weekday() == today]
    usual = float(np.median(same)) if same else 0.0
    if not usual or usual / TIMES <= day.rows <= usual * TIMES:
        return ()
    return (Finding("", VOLUME, f"rows: {day.rows}, where such weekdays have {usual:.0f}", True),)


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
    return State(state.day, (*state.keys, *new), level, weekday, errors, state.scores)


def _with(state: State, day: str, values: np.ndarray, errors: np.ndarray, score: float) -> State:
    today = date.fromisoformat(day).weekday()
    there, fresh = np.isfinite(values), np.isnan(state.level)
    level = np.where(fresh & there, values, state.level)
    known = there & ~fresh
    level[known] += LEVEL * errors[known]
    weekday = state.weekday.copy()
    deviations = values - state.level
    weekday[today, known] += WEEKDAY * (deviations[known] - weekday[today, known])
    kept = np.vstack([state.errors, errors[None]])[-ERROR_DAYS:]
    return State(day, state.keys, level, weekday, kept, np.append(state.scores, score)[-YEAR_DAYS:])


def _dated(state: State, day: str) -> State:
    return State(day, state.keys, state.level, state.weekday, state.errors, state.scores)
