"""How near estimates without labels come to the truth, and which versions seven days after a promotion take back.

    python -m benchmarks.late_labels flights [--delay 30] [--seconds 150] [--picture FILE]
    python -m benchmarks.late_labels bike [--delay 30]
    python -m benchmarks.late_labels promotions [--seconds 150] [--matrix FILE]

flights: a model of January and February 2013, frozen, and small trees that are fitted anew each month; labels count as
known `--delay` days later. Each month an estimator is fitted on the 60 days before that are ripe by then, and expects
AUC and log loss of each day of the month. Beside it stand the model's own probabilities, and the mean of the last ripe
days. bike: a model of rides that is fitted each year, and its absolute error, by day.

promotions: each day from April on a version takes over from the former champion, and is judged by the seven days
after. Equal versions differ in their seed; worse ones are the frozen model, and one whose look-ups have failed. With
--matrix the models are those of a matrix of daily losses, and nothing is fitted: only days tell of the variance then.
Fits are kept, and what was ended after --seconds goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from airtight.home import Home
from airtight.watch import after_promotion
from airtight.watch.after_promotion import TAKE_BACK, PairedDay
from benchmarks import loss_matrices as matrices
from components.measures import paired
from components.measures.scores import log_losses
from components.measures.slices import Slices
from components.schema import ExampleSchema
from components.tasks import Task, task_of
from components.watch import estimates
from components.watch.loss_matrix import LossMatrix
from pipelines.bike_demand import lake as bike_lake

FIT_DAYS = 60
"""Ripe days that an estimator is fitted on."""
LEAST_ROWS = 100
SAMPLED = {"bagging_fraction": 0.8, "bagging_freq": 1, "feature_fraction": 0.8}
"""What makes two fits of other seeds differ."""
BINARY = task_of(ExampleSchema((), "late", "at", ("id",), ()))
RIDES = task_of(ExampleSchema((), "rides", "at", ("hour",), (), task="regression"))


@dataclass(frozen=True)
class Rows:
    """What was predicted.

    Args:
      day: datetime64[D], rising, [rows].
      labels: Encoded.
      slices: Of the rows.
    """

    day: np.ndarray
    labels: np.ndarray
    slices: dict[str, Slices]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("flights", "bike", "promotions"))
    parser.add_argument("--folder", type=Path, default=Home.current().path / "bench" / "watch")
    parser.add_argument("--delay", type=int, default=30, help="days until labels are known")
    parser.add_argument("--seconds", type=float, default=1e9, help="fit nothing more after so many")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--matrix", type=Path, help="promotions: days of `benchmarks.loss_matrices flights`")
    options = parser.parse_args()
    if options.what == "bike":
        bike(options.delay)
        return
    if options.matrix:
        of_matrix(LossMatrix.read(options.matrix))
        return
    flights = Flights(options.folder / "parts" / "late", time.monotonic() + options.seconds)
    if options.what == "promotions":
        promotions(flights)
        return
    rows = Rows(flights.day, flights.labels, {})
    methods = ("none", "platt", "isotonic")
    for name, served in (("frozen", flights.frozen()), ("fitted each month", flights.monthly(0))):
        estimated = {method: by_day(BINARY, rows, served, options.delay, method) for method in methods}
        table(f"flights, {name}, labels after {options.delay} days", BINARY, estimated)
        if name == "frozen" and options.picture:
            picture(estimated["isotonic"], estimated["none"], options.picture)


class Flights:
    """The year's flights of few features, and models of them.

    Args:
      parts: Where predictions are kept.
      until: `time.monotonic` after which no further model is fitted.
    """

    def __init__(self, parts: Path, until: float) -> None:
        self._parts, self._until = parts, until
        rows = matrices.of_lake().sort_values("day", kind="stable")
        self.features = rows.drop(columns=["label", "day"])
        self.labels = rows.label.to_numpy().astype(np.int64)
        self.day = rows.day.to_numpy().astype("datetime64[D]")

    def frozen(self) -> np.ndarray:
        """Probabilities of the model of January and February, [rows]; NaN before."""
        return self._fitted("frozen", matrices.MONTHS[0], None, (matrices.FLIGHTS, matrices.FLIGHTS_TREES))

    def monthly(self, seed: int, broken: bool = False) -> np.ndarray:
        """Probabilities of small trees, fitted before each month on all that was before it.

        Args:
          seed: Of the trees.
          broken: Whether recent departures are missing when it is asked.
        """
        answers = np.full(len(self.day), np.nan, np.float32)
        ends = [*matrices.MONTHS[1:], self.day[-1] + 1]
        for first, end in zip(matrices.MONTHS, ends, strict=True):
            settings = matrices.CHALLENGER | SAMPLED | {"seed": seed}
            name = f"month-{seed}{'-broken' if broken else ''}-{first}"
            part = self._fitted(name, first, end, (settings, matrices.CHALLENGER_TREES), broken=broken)
            answers[(self.day >= first) & (self.day < end)] = part[(self.day >= first) & (self.day < end)]
        return answers

    def _fitted(
        self,
        name: str,
        first: np.datetime64,
        end: np.datetime64 | None,
        settings: tuple[dict[str, Any], int],
        *,
        broken: bool = False,
    ) -> np.ndarray:
        path = self._parts / f"{name}.npy"
        later = (self.day >= first) & (self.day < (end or self.day[-1] + 1))
        if not path.is_file():
            if time.monotonic() > self._until:
                sys.exit(f"{name} is not fitted yet; start this again to go on.")
            known = self.day < first
            data = lightgbm.Dataset(self.features[known], self.labels[known])
            model = lightgbm.train(settings[0], data, settings[1])
            features = self.features[later]
            if broken:
                recent = [column for column in features if column.endswith(("_count", "_late", "_delay"))]
                features = features.assign(**dict.fromkeys(recent, np.nan))
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.asarray(model.predict(features), np.float32))
        answers = np.full(len(self.day), np.nan, np.float32)
        answers[later] = np.load(path)
        return answers


def by_day(task: Task, rows: Rows, served: np.ndarray, delay: int, calibration: str) -> pd.DataFrame:
    """Truth, estimate and the mean of the ripe days before, for each day and metric.

    Args:
      task: Of the labels.
      rows: What was predicted.
      served: Predictions; NaN of rows that nobody predicted.
      delay: Days until labels are known.
      calibration: Of `estimates`.
    """
    known = np.isfinite(served)
    months = np.unique(rows.day[known].astype("datetime64[M]"))
    made: list[dict[str, Any]] = []
    truth: dict[tuple[np.datetime64, str], float] = {}
    for month in months:
        start = month.astype("datetime64[D]")
        ripe_end = start - delay
        fit = known & (rows.day >= ripe_end - FIT_DAYS) & (rows.day < ripe_end)
        fitted = estimates.fit(task, rows.labels[fit], served[fit], _part(rows.slices, fit), calibration)
        inside = known & (rows.day.astype("datetime64[M]") == month)
        for day in np.unique(rows.day[inside]):
            places = np.flatnonzero(inside & (rows.day == day))
            if len(places) < (LEAST_ROWS if task is BINARY else 20):
                continue
            values = {
                name: metric.value(rows.labels[places], served[places], None) for name, metric in task.metrics.items()
            }
            truth |= {(day, name): value for name, value in values.items()}
            if fitted is None:
                continue
            expected = estimates.estimate(fitted, task, served[places], _part(rows.slices, places))
            for name, value in values.items():
                past = [v for (d, n), v in truth.items() if n == name and ripe_end - FIT_DAYS <= d < ripe_end]
                made.append(
                    {
                        "day": day,
                        "metric": name,
                        "rows": len(places),
                        "truth": value,
                        "estimate": expected[name],
                        "before": np.mean(past),
                    }
                )
    return pd.DataFrame(made)


def _part(slices: dict[str, Slices], rows: np.ndarray) -> dict[str, Slices]:
    return {name: Slices(values.names, values.codes[rows]) for name, values in slices.items()}


def table(title: str, task: Task, estimated: dict[str, pd.DataFrame]) -> None:
    print(f"\n{title}")
    print("| metric | estimate | days | truth | error | mean absolute error by day | by month |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, metric in task.metrics.items():
        rows = {method: frame[frame.metric == name] for method, frame in estimated.items()}
        last = next(iter(rows.values()))
        rows["mean of the ripe days before"] = last.assign(estimate=last.before)
        for method, frame in rows.items():
            error = frame.estimate - frame.truth
            by_month = frame.assign(error=error * frame.rows, month=frame.day.astype("datetime64[s]").dt.to_period("M"))
            sums = by_month.groupby("month")[["error", "rows"]].sum()
            monthly = (sums.error / sums.rows).abs().mean()
            mean = np.average(frame.truth, weights=frame.rows)
            print(
                f"| {metric.title} | {method} | {len(frame)} | {mean:.4f} | "
                f"{np.average(error, weights=frame.rows):+.4f} | {error.abs().mean():.4f} | {monthly:.4f} |"
            )


def picture(calibrated: pd.DataFrame, own: pd.DataFrame, path: Path) -> None:
    """Truth and estimates of the frozen model, weeks."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, name, title in zip(figure.subplots(2, 1), ("auc", "log_loss"), ("ROC AUC", "log loss"), strict=True):
        for frame, column, colour, words in (
            (calibrated, "truth", "#1f5fa8", "truth, once labels came"),
            (calibrated, "estimate", "#c8781e", "recalibrated"),
            (own, "estimate", "#b8c0c8", "the model's own probabilities"),
        ):
            series = frame[frame.metric == name].set_index("day")[column].rolling(7).mean()
            axes.plot(series.index, series, color=colour, label=words)
        axes.set(title=f"{title} of a model of January and February, mean of seven days")
        axes.grid(color="#e6eaee", lw=0.6)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def bike(delay: int) -> None:
    """Absolute error of rides by day, of a model that is fitted each year."""
    rides = matrices._read("rides", bike_lake.build).sort_values("starts_at")
    hour, count = pd.to_datetime(rides.hour), rides.rides
    features = pd.DataFrame(
        {"hour": hour.dt.hour, "weekday": hour.dt.dayofweek, "month": hour.dt.month}
        | {f"rides_{lag}h": count.shift(lag) for lag in matrices.LAGS_H}
    ).to_numpy(np.float64)
    labels, year = count.to_numpy(np.float64), hour.dt.year.to_numpy()
    served = np.full(len(labels), np.nan)
    for first in range(2012, int(year.max()) + 1):
        data = lightgbm.Dataset(features[year < first], labels[year < first])
        model = lightgbm.train(matrices.RIDES, data, 100)
        served[year == first] = np.asarray(model.predict(features[year == first]))
    slices = {
        "hour": Slices(tuple(map(str, range(24))), hour.dt.hour.to_numpy().astype(np.int32)),
        "weekday": Slices(tuple(map(str, range(7))), hour.dt.dayofweek.to_numpy().astype(np.int32)),
    }
    rows = Rows(hour.to_numpy().astype("datetime64[D]"), labels, slices)
    table(f"bike, labels after {delay} days", RIDES, {"DLE": by_day(RIDES, rows, served, delay, "none")})


def promotions(flights: Flights) -> None:
    """How often, and when, versions are taken back."""
    fresh, other = flights.monthly(0), flights.monthly(1)
    cases: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "equal (another seed)": (other, fresh),
        "equal, the other way": (fresh, other),
        "fresh in the place of the frozen one": (fresh, flights.frozen()),
        "frozen in February": (flights.frozen(), fresh),
        "look-ups of recent departures failed": (flights.monthly(0, broken=True), fresh),
    }
    starts = np.arange("2013-04-01", "2013-12-24", dtype="datetime64[D]")
    print("| version that took over | worse by (log loss) | promotions | taken back | median ripe day |")
    print("|---|---:|---:|---:|---:|")
    for words, (version, former) in cases.items():
        days = paired_days(flights, version, former)
        outcomes = [judged(days, start) for start in starts]
        back = [standing.days for standing in outcomes if standing.outcome == TAKE_BACK]
        worse = np.average([day.difference for day in days.values()], weights=[day.rows for day in days.values()])
        median = f"{np.median(back):g}" if back else "-"
        print(f"| {words} | {worse:+.4f} | {len(outcomes)} | {len(back) / len(outcomes):.1%} | {median} |")


def of_matrix(matrix: LossMatrix) -> None:
    """How often models of a matrix are taken back: fresh ones in the place of the one before, or of the first one."""
    loss, days = matrix.loss[0], len(matrix.rows)
    newest = np.searchsorted(matrix.fit_at, np.arange(days), side="right") - 1

    def judged_from(start: int, version: int, former: int) -> after_promotion.Standing:
        pairs = [
            PairedDay(
                str(matrix.starts[day]), int(matrix.rows[day]), float(loss[version, day] - loss[former, day]), None
            )
            for day in range(start, start + 7)
        ]
        return after_promotion.judge(pairs, 8, after_promotion.Settings())

    starts = range(int(matrix.fit_at[2]), days - 7)
    cases = {
        "a fresh one, in the place of the fit before": [
            judged_from(int(matrix.fit_at[fit]), fit, fit - 1) for fit in range(1, len(matrix.fit_at))
        ],
        "the newest, in the place of the first": [judged_from(day, int(newest[day]), 0) for day in starts],
        "the first, in the place of the newest": [judged_from(day, 0, int(newest[day])) for day in starts],
    }
    print("| version that took over | mean difference | promotions | taken back | median ripe day |")
    print("|---|---:|---:|---:|---:|")
    for words, outcomes in cases.items():
        back = [standing.days for standing in outcomes if standing.outcome == TAKE_BACK]
        mean, median = np.mean([one.difference for one in outcomes]), f"{np.median(back):g}" if back else "-"
        print(f"| {words} | {mean:+.4f} | {len(outcomes)} | {len(back) / len(outcomes):.1%} | {median} |")


def paired_days(flights: Flights, version: np.ndarray, former: np.ndarray) -> dict[np.datetime64, PairedDay]:
    """Both on the same flights, by day from April on."""
    both = np.isfinite(version) & np.isfinite(former) & (flights.day >= np.datetime64("2013-04-01"))
    made = {}
    for day in np.unique(flights.day[both]):
        rows = np.flatnonzero(both & (flights.day == day))
        labels = flights.labels[rows]
        difference = log_losses(labels, version[rows]) - log_losses(labels, former[rows])
        blocks = paired.blocks_of(np.zeros(len(rows), np.int32), "days")
        gain = paired.MeanGain.of(np.zeros(len(rows)), difference, blocks.of_row)
        estimate = paired.estimate(gain, blocks.count)
        variance = estimate.error**2 if estimate else None
        made[day] = PairedDay(str(day), len(rows), float(difference.mean()), variance)
    return made


def judged(days: dict[np.datetime64, PairedDay], start: np.datetime64) -> after_promotion.Standing:
    """The seven days from a day on."""
    pairs: Sequence[PairedDay] = [days[day] for day in days if start <= day < start + 7]
    return after_promotion.judge(pairs, 8, after_promotion.Settings())


if __name__ == "__main__":
    main()
