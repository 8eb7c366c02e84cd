"""How soon a frozen model is noticed: the paired loss, the raw loss and river's detectors, at one rate of false alarms.

    python -m benchmarks.loss_matrices flights --folder FOLDER [--challenger]     (once each)
    python -m benchmarks.detectors --folder FOLDER [--picture FILE]

The served model is that of January and February 2013, frozen; the challenger is fitted anew each month. While nothing
is wrong, the served model is as fresh as its challenger: these days calibrate every detector to 200 days between false
alarms, by the same bootstrap of weeks, and those from August on, after a calibration by the days up to July, count
false alarms on days that no threshold has seen. Delays are those of streams that begin at each day from April on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from river import drift

from airtight.watch.regret import Day, after, in_words
from components.watch.calibration import calibrate, drawn, run_lengths
from components.watch.loss_matrix import LossMatrix

DAYS_BETWEEN, SEED = 200, 7
APRIL, AUGUST = "2013-04-01", "2013-08-01"
Alarm = Callable[[np.ndarray, float], np.ndarray]
"""Days until the first alarm of streams of standardized values, [streams, days], by a detector's parameter; the
streams' length where there is none."""


def _river(make: Callable[[float], drift.ADWIN]) -> Alarm:
    def length(stream: np.ndarray, parameter: float) -> int:
        detector = make(parameter)
        for day, value in enumerate(stream.tolist()):
            detector.update(value)
            if detector.drift_detected:
                return day + 1
        return len(stream)

    return lambda streams, parameter: np.array([length(stream, parameter) for stream in streams])


def _cusum(streams: np.ndarray, threshold: float) -> np.ndarray:
    return run_lengths(streams, threshold, 0.25)


DETECTORS: dict[str, tuple[Alarm, np.ndarray]] = {
    "CUSUM": (_cusum, np.geomspace(1, 60, 40)),
    "ADWIN": (_river(lambda delta: drift.ADWIN(delta=delta, grace_period=5, clock=1)), np.geomspace(0.9, 1e-9, 16)),
    "Page-Hinkley": (
        _river(lambda limit: drift.PageHinkley(min_instances=1, delta=0.25, threshold=limit, mode="up")),
        np.geomspace(1, 60, 24),
    ),
    "KSWIN": (
        _river(lambda alpha: drift.KSWIN(alpha=alpha, window_size=30, stat_size=10, seed=1)),
        10.0 ** -np.arange(1, 8),
    ),
}
"""Each with its parameters, from many false alarms to few."""
PATHS = {"CUSUM": 400, "ADWIN": 40, "Page-Hinkley": 40, "KSWIN": 10}
"""Simulated streams by which parameters are set: fewer of slow detectors."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--without", nargs="*", default=[], choices=list(DETECTORS))
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    served, cheap = (LossMatrix.read(options.folder / f"flights{name}-days.npz") for name in ("", "-challenger"))
    fresh, frozen, challenger = newest(served), served.loss[0, 0], newest(cheap)
    april = int(np.searchsorted(served.starts, APRIL))
    series = {
        "loss": (fresh, frozen),
        "paired loss": (fresh - challenger, frozen - challenger),
    }
    print(
        "| stream | detector | mean delay | median | never | false alarms, August to December | first alarm |",
        flush=True,
    )
    print("|---|---|---:|---:|---:|---:|---|")
    for name, (null, changed) in series.items():
        for detector, (alarm, parameters) in DETECTORS.items():
            if detector not in options.without:
                print(
                    row(name, detector, alarm, parameters, (null, changed), days=served.starts, april=april), flush=True
                )
    state, settings = None, calibrate(fresh - challenger)
    levels, sure = [], None
    for day, rows, difference in zip(served.starts, served.rows, frozen - challenger, strict=True):
        alarm_before = state.alarm if state else ""
        state = after(state, Day(str(day), "2013-02", int(rows), float(difference)), settings)
        levels.append(state.level)
        if (state.alarm and not alarm_before) or (sure is None and state.lower_bound(settings) > 0):
            sure = sure or (day if state.lower_bound(settings) > 0 else None)
            print(f"{day}: {in_words(state, settings, 'flight')}")
    print(f"{served.starts[-1]}: {in_words(state, settings, 'flight')}")
    if options.picture:
        picture(served.starts, np.array(levels), settings.threshold).savefig(options.picture, dpi=110)


def newest(matrix: LossMatrix) -> np.ndarray:
    """Losses [days] of the model that is newest on each day."""
    return np.array([matrix.loss[0, matrix.newest(day), day] for day in range(len(matrix.rows))])


def row(
    stream: str,
    detector: str,
    alarm: Alarm,
    parameters: np.ndarray,
    series: tuple[np.ndarray, np.ndarray],
    *,
    days: np.ndarray,
    april: int,
) -> str:
    """A line of the table."""
    null, changed = series
    half = int(np.searchsorted(days, AUGUST))
    parameter, scaled = calibrated(detector, alarm, parameters, null)
    late = scaled(changed)[april:]
    starts = range(0, len(late) - 30, 5)
    delays = np.array([alarm(late[None, start:], parameter)[0] for start in starts])
    never = np.mean([delay >= len(late) - start for start, delay in zip(starts, delays, strict=True)])
    first = int(alarm(scaled(changed)[None], parameter)[0])
    early, scaled_early = calibrated(detector, alarm, parameters, null[:half])
    new, false, at = scaled_early(null[half:]), 0, 0
    while at < len(new) and (length := int(alarm(new[None, at:], early)[0])) < len(new) - at:
        false, at = false + 1, at + length
    when = str(days[first - 1]) if first < len(changed) else "never"
    return f"| {stream} | {detector} | {delays.mean():.0f} | {np.median(delays):.0f} | {never:.0%} | {false} | {when} |"


def calibrated(
    detector: str, alarm: Alarm, parameters: np.ndarray, null: np.ndarray
) -> tuple[float, Callable[[np.ndarray], np.ndarray]]:
    """The first parameter with so few false alarms on the null, and how values are standardized."""
    centre, scale = null.mean(), null.std()
    paths = drawn((null - centre) / scale, 4 * DAYS_BETWEEN, np.random.default_rng(SEED), PATHS[detector])
    low, high = 0, len(parameters) - 1
    while low < high:
        middle = (low + high) // 2
        mean = alarm(paths, parameters[middle]).mean()
        low, high = (low, middle) if mean >= DAYS_BETWEEN else (middle + 1, high)
    return float(parameters[low]), lambda values: (values - centre) / scale


def picture(days: np.ndarray, levels: np.ndarray, threshold: float) -> Figure:
    """The level of the CUSUM day by day."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(levels, lw=1.4, color="#1f5fa8")
    axes.axhline(threshold, color="#b91c1c", lw=1, ls="--", label="alarm")
    # A CUSUM is never below 0, and grows without an end where nobody retrains.
    axes.set(yscale="symlog", title="CUSUM of the paired loss of the model frozen after February")
    axes.set(ylim=(0, 1.2 * levels.max()), ylabel="level, standard deviations of a day", xlabel="day of 2013")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(range(0, len(days), 30), [day[5:] for day in days[::30].tolist()])
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
