"""How often the quality gate errs: equal models that it refuses, losses that it lets pass, and slow ratchets.

    python -m benchmarks.decisions [--trials 200] [--examples FOLDER] [--json FILE]

Pairs of real answers decide: for several months of 2013, LightGBM models of four seeds, each learned from rows before
the month. A simulated month draws 30 of the month's days with replacement; a simulated day is one of its days. Equal
models are other seeds. A planted loss mixes noise that flights of one carrier on one day share into the logits, until
the metric has lost so much over the whole month; a loss of calibration shifts all logits. Examples are made by the
pipeline's own functions from the lake, or read from FOLDER, the `Examples` of 2013-12, whose history is the year.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.quality import LIGHTGBM, make_examples
from components.data import examples as reading
from components.measures import comparison
from components.measures.comparison import Comparison, Margins, Rows
from components.tasks import task_of, thresholds
from pipelines.flight_delays import clock
from pipelines.flight_delays.features import SCHEMA
from pipelines.flight_delays.settings import SETTINGS

MONTHS = (3, 4, 5, 6, 7, 9, 10, 12)
SEEDS, TREES, HISTORY_ROWS = 4, 150, 100_000
DAYS_OF_MONTH = 30
TASK = task_of(SCHEMA)
MARGINS = thresholds.margins(str(SETTINGS.default("margins")), TASK)
GAINS = thresholds.baseline_gains(str(SETTINGS.default("baseline_gains")), TASK)
MARGIN_ROWS = int(SETTINGS.node_parameters["evaluate"]["margin_rows"])
WIDEST = 20.0
"""As evaluate has it where nothing else is set."""
AMOUNTS = np.linspace(0, 4, 41)
"""Of noise, or of shift, in the logits; the losses between them are interpolated."""
RATCHETS = (0.9, 0.6, 0.4)
"""Losses of each month, in margins, of slow ratchets."""


@dataclass(frozen=True)
class Pool:
    """Rows of one month with the answers of equal models.

    Args:
      labels: 0 or 1, [rows].
      days: Day numbers in order, [rows].
      groups: What shares planted noise, numbers, [rows].
      models: Probabilities of models of other seeds, each [rows].
      floor: Probabilities of the baseline, [rows].
    """

    labels: np.ndarray
    days: np.ndarray
    groups: np.ndarray
    models: list[np.ndarray]
    floor: np.ndarray

    def month(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows of days drawn with replacement, and the block of each."""
        drawn = rng.integers(0, self.days.max() + 1, DAYS_OF_MONTH)
        rows = [np.flatnonzero(self.days == day) for day in drawn]
        return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(part) for part in rows])

    def day(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows of one day with rows of both labels, and their block."""
        while True:
            rows = np.flatnonzero(self.days == rng.integers(0, self.days.max() + 1))
            if len(rows) and 0 < self.labels[rows].sum() < len(rows):
                return rows, np.zeros(len(rows), int)


Draw = Callable[[Pool, np.random.Generator], tuple[np.ndarray, np.ndarray]]
DRAWS: dict[str, Draw] = {"month": Pool.month, "day": Pool.day}


def noisy(pool: Pool, probability: np.ndarray, amount: float) -> np.ndarray:
    """Answers that order rows worse: noise in the logits, half of its variance shared by a group."""
    rng = np.random.default_rng(7)
    noise = rng.normal(size=len(probability)) + rng.normal(size=pool.groups.max() + 1)[pool.groups]
    return _moved(probability, amount * noise / np.sqrt(2))


def shifted(_: Pool, probability: np.ndarray, amount: float) -> np.ndarray:
    """Answers in the same order that are all too high."""
    return _moved(probability, np.full(len(probability), amount))


def _moved(probability: np.ndarray, change: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return 1 / (1 + np.exp(-(np.log(clipped) - np.log1p(-clipped) + change)))


PLANTED = {"auc": noisy, "log_loss": shifted}


def losses(pool: Pool, metric: str, interval: str) -> np.ndarray:
    """The true loss of each of AMOUNTS: over the whole month, or the mean of its days."""
    plant, value = PLANTED[metric], TASK.metrics[metric].value
    parts = [np.arange(len(pool.labels))]
    if interval == "day":
        parts = [np.flatnonzero(pool.days == day) for day in np.unique(pool.days)]
        parts = [part for part in parts if 0 < pool.labels[part].sum() < len(part)]
    sign = 1 if TASK.metrics[metric].higher_is_better else -1
    answers = [plant(pool, pool.models[0], amount) for amount in AMOUNTS]
    values = [np.mean([value(pool.labels[part], answer[part], None) for part in parts]) for answer in answers]
    return np.maximum.accumulate(sign * (values[0] - np.array(values)))


def judge(
    pool: Pool, rows: np.ndarray, units: np.ndarray, candidate: np.ndarray, champions: list[np.ndarray]
) -> tuple[list[Comparison], bool]:
    """What evaluate would compare, by the settings of flight_delays, and whether it would refuse the candidate."""
    held = Rows(TASK, pool.labels[rows], units, "days")
    names = ["the champion", *(f"champion {n} before it" for n in range(1, len(champions)))]
    others = {name: answers[rows] for name, answers in zip(names, champions, strict=True)}
    margins = Margins(MARGINS, MARGIN_ROWS, WIDEST)
    floor = comparison.superior(held, candidate[rows], "the baseline", pool.floor[rows], GAINS, proven=False)
    comparisons = comparison.non_inferior(held, candidate[rows], others, margins) + floor
    decidable = comparison.decidable_check(held, margins)
    return comparisons, not all(judged.passed for judged in (decidable, *comparisons))


def equal_models(pools: list[Pool], interval: str, trials: int, seed: int = 0) -> dict[str, Any]:
    """Trials of a candidate beside champions that are the same model with other seeds."""
    outcomes, stated = [], []
    for rng in _generators(seed, trials):
        pool = pools[rng.integers(len(pools))]
        rows, units = DRAWS[interval](pool, rng)
        candidate, *champions = (pool.models[place] for place in rng.permutation(len(pool.models)))
        comparisons, refused = judge(pool, rows, units, candidate, champions)
        outcomes.append(refused)
        stated.append({c.metric: -c.required for c in comparisons if c.other == "the champion"})
    medians = {metric: float(np.median([margins[metric] for margins in stated])) for metric in MARGINS}
    return {"refused": int(sum(outcomes)), "trials": trials, "margin": medians}


def planted_loss(pools: list[Pool], interval: str, metric: str, trials: int, seed: int = 1) -> dict[str, Any]:
    """Trials of a candidate that truly loses three times the margin by which its interval decides."""
    known = [losses(pool, metric, interval) for pool in pools]
    outcomes = []
    for rng in _generators(seed, trials):
        place = int(rng.integers(len(pools)))
        pool = pools[place]
        rows, units = DRAWS[interval](pool, rng)
        candidate, *champions = (pool.models[n] for n in rng.permutation(len(pool.models)))
        before, _ = judge(pool, rows, units, candidate, champions)
        margin = next(-c.required for c in before if c.metric == metric and c.other == "the champion")
        amount = float(np.interp(3 * margin, known[place], AMOUNTS))
        worse = PLANTED[metric](pool, candidate, amount)
        outcomes.append(judge(pool, rows, units, worse, champions)[1])
    return {"stopped": int(sum(outcomes)), "trials": trials}


def ratchet(
    pools: list[Pool], loss: float, earlier: int, trials: int, *, seed: int = 2, steps: int = 12
) -> dict[str, Any]:
    """Trials of months that each lose so much against the champion; of each, what was lost when it is stopped.

    Args:
      pools: Of rows.
      loss: Of each month, in margins of ROC AUC.
      earlier: How many champions before the champion the gate knows.
      trials: Number of chains.
      seed: Of the draws.
      steps: Longest chain.
    """
    known = [losses(pool, "auc", "month") for pool in pools]
    lost = []
    for rng in _generators(seed, trials):
        place = int(rng.integers(len(pools)))
        pool, model = pools[place], pools[place].models[int(rng.integers(len(pools[place].models)))]
        chain = [model]
        for step in range(1, steps + 1):
            amount = float(np.interp(step * loss * MARGINS["auc"].amount, known[place], AMOUNTS))
            rows, units = pool.month(rng)
            candidate = noisy(pool, model, amount)
            if judge(pool, rows, units, candidate, chain[::-1][: earlier + 1])[1]:
                break
            chain.append(candidate)
        lost.append(loss * (len(chain) - 1))
    return {"trials": trials, "margins lost": {"median": float(np.median(lost)), "most": float(np.max(lost))}}


def _generators(seed: int, trials: int) -> Iterator[np.random.Generator]:
    return (np.random.default_rng([seed, trial]) for trial in range(trials))


def read_pools(examples: Path) -> Iterator[Pool]:
    """Fits the models of each month and answers for it."""
    columns = (*SCHEMA.names, SCHEMA.label, SCHEMA.time)
    splits = [reading.read_table(examples, split, SCHEMA, columns) for split in ("train", "validation", "test")]
    table = pa.concat_tables(splits)
    labels = reading.labels(table, SCHEMA)
    features = pd.DataFrame(reading.features(table, SCHEMA))
    features = features.astype(dict.fromkeys(SCHEMA.of_kind("category"), "category"))
    local = pd.DatetimeIndex(table[SCHEMA.time].to_pandas()).tz_convert(clock.ZONE)
    months = np.asarray(local.month)
    for month in MONTHS:
        known, now = np.flatnonzero(months < month), months == month
        fitted = known[-HISTORY_ROWS:]
        data = lightgbm.Dataset(features.iloc[fitted], labels[fitted], free_raw_data=False)
        models = [
            lightgbm.train(LIGHTGBM | {"seed": seed, "learning_rate": 0.08}, data, TREES).predict(features[now])
            for seed in range(SEEDS)
        ]
        values = features[SCHEMA.baseline].to_numpy()
        floor = TASK.baseline(values[known], labels[known], values[now], int(now.sum()))
        days = np.asarray(local.day)[now] - 1
        carriers = features["carrier"].cat.codes.to_numpy()[now].astype(int)
        groups = np.unique(days * 1000 + carriers, return_inverse=True)[1]
        yield Pool(labels[now], days, groups, [np.asarray(model) for model in models], floor)


def measured(pools: list[Pool], trials: int) -> dict[str, Any]:
    """All error rates."""
    return {
        **{f"equal models, {name}": equal_models(pools, name, trials) for name in DRAWS},
        **{
            f"{metric} three margins worse, {name}": planted_loss(pools, name, metric, trials)
            for name in DRAWS
            for metric in PLANTED
        },
        **{
            f"ratchet of {loss:g} margins, {earlier} earlier": ratchet(pools, loss, earlier, trials // 12)
            for loss in RATCHETS
            for earlier in (0, 3)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--examples", type=Path, help="the Examples artifact of 2013-12")
    parser.add_argument("--json", type=Path, help="write the rates here too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pools = list(read_pools(args.examples or make_examples("2013-12", Path(scratch))))
    rates = measured(pools, args.trials)
    for name, rate in rates.items():
        print(f"{name}: {json.dumps(rate)}")
    if args.json:
        args.json.write_text(json.dumps(rates, indent=1))


if __name__ == "__main__":
    main()
