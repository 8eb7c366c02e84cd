"""Our change detectors and river's on series whose changes people have marked, by covering and F1.

    python -m benchmarks.annotated_series

The series are those of the Turing change point data (van den Burg and Williams, arXiv 2003.06222) that river ships,
cut to what its annotators saw. A detector sees value by value and says that there was a change when it alarms; those
of the publication see the whole series first. A detector of several figures alarms when one of them does, and then
begins anew. Columns say "default" where one set of parameters holds for all series, and "oracle" where each series and
each metric has the best of the detector's sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import Any, Protocol

import numpy as np
from river import drift
from river.drift import datasets

from airtight.watch.regret import Day, Settings, State, after
from benchmarks.segmentation import covering, f1
from components.watch import data_alarms
from components.watch.calibration import calibrate

CUTS = {"Apple": slice(1, None, 3), "Bitcoin": slice(774), "BrentSpotPrice": slice(3200, None, 10)}
"""Rows that were annotated, where river ships more."""
FIGURES = {"Apple": ["Close", "Volume"]}
"""Columns that were annotated, where river ships more."""
FILLED = "UKCoalEmploy"
"""Gaps are filled by river and were gaps to the published algorithms: in no mean."""
BEGINNING = date(2000, 1, 3)
"""Any day will do; each value is a day later."""

Change = tuple[int, int]
"""Where a detector alarms, and since when, by its own estimate, it has been another process."""


@dataclass(frozen=True)
class Series:
    """A series with the change points of its annotators.

    Args:
      name: river's.
      values: Each figure with mean 0 and standard deviation 1, [values, figures], as in the publication.
      annotations: Of each annotator.
    """

    name: str
    values: np.ndarray
    annotations: list[list[int]]

    def scores(self, changes: list[int]) -> tuple[float, float]:
        """Covering and F1."""
        return covering(self.annotations, changes, len(self.values)), f1(self.annotations, changes)


def annotated() -> Iterator[Series]:
    """All of river's."""
    for name in datasets.__all__:
        dataset = getattr(datasets, name)()
        rows = [row if isinstance(row, dict) else {"": row} for _, row in dataset][CUTS.get(name, slice(None))]
        values = np.array([[row[figure] for figure in FIGURES.get(name, row)] for row in rows], np.float64)
        standard = (values - values.mean(axis=0)) / values.std(axis=0)
        yield Series(name, standard, list(dataset.annotations.values()))


class Figure(Protocol):
    """A detector of one figure."""

    def update(self, place: int, value: float) -> int | None:
        """Where the change began, if the value gives an alarm."""


class Cusum:
    """The regret's CUSUM upwards and downwards, calibrated by the first values (28 at least) since it began."""

    def __init__(self, days_between: int = 200, slack: float = 0.25) -> None:
        self._calibrate = partial(calibrate, days_between=days_between, slack=slack)
        self._null: list[float] = []
        self._settings: Settings | None = None
        self._states: dict[int, State | None] = {1: None, -1: None}

    def update(self, place: int, value: float) -> int | None:
        """As in `Figure`."""
        if not self._settings:
            self._null.append(value)
            self._settings = self._calibrate(np.array(self._null))
            return None
        day, centre = (BEGINNING + timedelta(place)).isoformat(), self._settings.centre
        for sign, state in self._states.items():
            now = after(state, Day(day, "", 1, centre + sign * (value - centre)), self._settings)
            if now.alarm:
                return (date.fromisoformat(now.since) - BEGINNING).days
            self._states[sign] = now
        return None


class River:
    """A detector of river's; ADWIN and KSWIN know the window since the change, Page-Hinkley does not."""

    def __init__(self, kind: Callable[..., Any], **parameters: Any) -> None:
        self._detector = kind(**parameters)

    def update(self, place: int, value: float) -> int | None:
        """As in `Figure`."""
        self._detector.update(value)
        if not self._detector.drift_detected:
            return None
        window = getattr(self._detector, "width", 0) or getattr(self._detector, "stat_size", 1)
        return place + 1 - int(window)


def by_figure(make: Callable[..., Figure], values: np.ndarray, **parameters: Any) -> list[Change]:
    """Changes by a detector of each figure; all begin anew when one alarms."""
    changes, figures = [], [make(**parameters) for _ in values.T]
    for place, row in enumerate(values.tolist()):
        starts = [figure.update(place, value) for figure, value in zip(figures, row, strict=True)]
        if known := [start for start in starts if start is not None]:
            changes.append((place, min(known)))
            figures = [make(**parameters) for _ in values.T]
    return changes


def by_own_past(values: np.ndarray, alarms_a_year: float = 4.0) -> list[Change]:
    """The score of a day, each value as a day's median: the first of consecutive alarms is a change, at once.

    A series has no rows of a day, so there are neither hard rules nor distances.
    """
    count = values.shape[1]
    keys = tuple((str(figure), "50% quantile") for figure in range(count))
    state = data_alarms.State("", keys, np.full(count, np.nan), np.zeros((7, count)), np.empty((0, count)))
    changes, is_open = [], False
    for place, row in enumerate(values):
        day = BEGINNING + timedelta(place)
        errors = row - state.level - state.weekday[day.weekday()]
        scores = data_alarms._scores(state, errors, 1)
        score = float(np.nanmax(scores)) if np.isfinite(scores).any() else np.nan
        is_alarm = score > data_alarms.alarm_threshold(state.scores, alarms_a_year)
        if is_alarm and not is_open:
            changes.append((place, place))
        is_open = is_alarm
        state = data_alarms._with(state, day.isoformat(), row, errors, score, ())
    return changes


def _grid(**choices: tuple[float, ...]) -> list[dict[str, float]]:
    sets: list[dict[str, float]] = [{}]
    for name, values in choices.items():
        sets = [{**known, name: value} for known in sets for value in values]
    return sets


DETECTORS: dict[str, tuple[Callable[..., list[Change]], list[dict[str, float]]]] = {
    "none: no change": (lambda values: [], [{}]),
    "CUSUM (`regret`)": (partial(by_figure, Cusum), _grid(days_between=(200, 50, 20), slack=(0.25, 0.5, 1.0, 2.0))),
    "own past (`data_alarms`)": (by_own_past, _grid(alarms_a_year=(4.0, 1.5, 12.0, 36.0))),
    "ADWIN": (
        partial(by_figure, partial(River, drift.ADWIN)),
        _grid(delta=(0.002, 1e-5, 0.05, 0.3), clock=(32, 1)),
    ),
    "Page-Hinkley": (
        partial(by_figure, partial(River, drift.PageHinkley)),
        _grid(threshold=(50.0, 2.0, 5.0, 10.0, 20.0), delta=(0.005, 0.25), min_instances=(30, 10)),
    ),
    "KSWIN": (
        partial(by_figure, partial(River, partial(drift.KSWIN, seed=1))),
        _grid(alpha=(0.005, 1e-4, 1e-6), window_size=(100, 60), stat_size=(30, 20)),
    ),
}
"""Each with its parameters; the first are the product's, or river's own."""
WITH_A_START = ("CUSUM (`regret`)", "ADWIN", "KSWIN")
"""They are judged by where they alarm, and once more by since when, by their own estimate, there was a change."""


def judged(detector: str, series: Series) -> np.ndarray:
    """Covering and F1 of where it alarms and of since when, [default or oracle, alarm or start, metric]."""
    detect, sets = DETECTORS[detector]
    tried = [detect(series.values, **parameters) for parameters in sets]
    scores = np.array([[series.scores([change[at] for change in changes]) for at in (0, 1)] for changes in tried])
    return np.stack([scores[0], scores.max(axis=0)])


def main() -> None:
    known = list(annotated())
    several = np.array([series.values.shape[1] > 1 for series in known])
    filled = np.array([series.name == FILLED for series in known])
    print("| detector | change at | one figure: default | oracle | several figures: default | oracle |")
    print("|---|---|---:|---:|---:|---:|", flush=True)
    lines = []
    for detector in DETECTORS:
        scores = np.array([judged(detector, series) for series in known])
        for at, name in enumerate(("alarm", "start") if detector in WITH_A_START else ("alarm",)):
            groups = [scores[chosen, :, at].mean(axis=0) for chosen in (~several & ~filled, several)]
            means = [_both(mean) for group in groups for mean in group]
            print(f"| {detector} | {name} | {' | '.join(means)} |", flush=True)
            lines.append(f"| {detector} | {name} | {' | '.join(_both(one) for one in scores[:, 0, at])} |")
    print(f"\n| default, by series | change at | {' | '.join(series.name for series in known)} |")
    print("|---|---|" + "---:|" * len(known), *lines, sep="\n")


def _both(scores: np.ndarray) -> str:
    return ", ".join(f"{score:.3f}".lstrip("0") for score in scores)


if __name__ == "__main__":
    main()
