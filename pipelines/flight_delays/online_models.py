"""Linear models that learn flight by flight, from river: logistic regression by SGD, and the passive-aggressive one.

They are baselines. What they see of a flight are the model's own features: numbers, scaled by the mean and variance of
the flights learned so far, and categories, one-hot. A missing number is at the mean, and a flag says that it is
missing: the rule of training, by which missing is a value of its own. A missing category is the category "".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from airtight.errors import TerminalError
from pipelines.flight_delays import features

NAMES = ("sgd", "passive_aggressive")
"""The models, in the order of their answers."""
LEARNING_RATE = 0.001
"""Of SGD; constant, because flights of the next season are not those of the last. Both were chosen on June 2013."""
AGGRESSIVENESS = 3e-4
"""The longest step of the passive-aggressive one (C, PA-I). One flight says little: the labels are noisy."""
FURTHEST = 5.0
"""A number so many standard deviations from its mean counts as no further: one odd flight must not turn the weights."""
SETTINGS = f"river: sgd {LEARNING_RATE}, pa-1 {AGGRESSIVENESS}, clip {FURTHEST}"
"""What a state must have been made with."""

_NUMBERS, _CATEGORIES = features.SCHEMA.of_kind("number"), features.SCHEMA.of_kind("category")


class Seen(msgspec.Struct, frozen=True):
    """A flight as the models see it, not scaled yet.

    Args:
      numbers: Finite numbers by feature; those that are missing are not there.
      flags: Names of inputs that are 1: `carrier=UA`, `temp?` for a missing temperature.
    """

    numbers: dict[str, float]
    flags: list[str]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Seen:
        """A flight's features, by the names of `features.SCHEMA`; a number that is NaN, infinite or None is missing."""
        numbers, flags = {}, []
        for name in _NUMBERS:
            value = told[name]
            if value is not None and math.isfinite(value):
                numbers[name] = float(value)
            else:
                flags.append(f"{name}?")
        flags += [f"{name}={told[name] or ''}" for name in _CATEGORIES]
        return cls(numbers, flags)


class Weights(msgspec.Struct):
    """All that the models have learned; finite numbers by input.

    Args:
      settings: `SETTINGS` of those who learned it.
      learned: From how many flights.
      counts: Of how many flights a number is known.
      means: Its mean.
      variances: Its variance, population.
      sgd: Weights of the logistic regression.
      sgd_intercept: Its intercept.
      passive_aggressive: Weights of the passive-aggressive one.
      passive_aggressive_intercept: Its intercept.
    """

    settings: str
    learned: int
    counts: dict[str, int]
    means: dict[str, float]
    variances: dict[str, float]
    sgd: dict[str, float]
    sgd_intercept: float
    passive_aggressive: dict[str, float]
    passive_aggressive_intercept: float


class OnlineModels:
    """The two models and the scaler before them.

    Args:
      weights: What they have learned; None for nothing yet.

    Raises:
      TerminalError: It was learned with other settings, or river is not installed.
    """

    def __init__(self, weights: Weights | None = None) -> None:
        try:
            from river import linear_model, optim, preprocessing
            from river.utils import VectorDict
        except ImportError as error:
            raise TerminalError(
                "Online learning needs river.",
                expected="the package river",
                received=str(error),
                remedy="Install the locked requirements: make install.",
            ) from error
        self.learned = 0
        self._scaler = preprocessing.StandardScaler()
        self._sgd = linear_model.LogisticRegression(optim.SGD(LEARNING_RATE), intercept_lr=LEARNING_RATE)
        self._passive = linear_model.PAClassifier(C=AGGRESSIVENESS, mode=1)
        if weights is None:
            return
        if weights.settings != SETTINGS:
            raise TerminalError(
                "The online models' state was made with other settings.",
                expected=SETTINGS,
                received=weights.settings,
                remedy="Begin anew with another --state, or go back to the code that made it.",
            )
        self.learned = weights.learned
        self._scaler.counts.update(weights.counts)
        self._scaler.means.update(weights.means)
        self._scaler.vars.update(weights.variances)
        # river has no public way to give a linear model its weights back; a test holds the version to this.
        self._sgd._weights = VectorDict(weights.sgd)
        self._sgd.intercept, self._sgd.optimizer.n_iterations = weights.sgd_intercept, weights.learned
        self._passive.weights.update(weights.passive_aggressive)
        self._passive.intercept = weights.passive_aggressive_intercept

    def predict(self, seen: Seen) -> tuple[float, float]:
        """How probable it is that the flight is late, by each of `NAMES`.

        The passive-aggressive one knows margins, no probabilities: its answer ranks flights, and is not calibrated.
        """
        x = self._inputs(seen)
        return float(self._sgd.predict_proba_one(x)[True]), float(self._passive.predict_proba_one(x)[True])

    def learn(self, seen: Seen, late: bool) -> None:
        """Takes a label in."""
        self._scaler.learn_one(seen.numbers)
        x = self._inputs(seen)
        self._sgd.learn_one(x, late)
        self._passive.learn_one(x, late)
        self.learned += 1

    def weights(self) -> Weights:
        """All that was learned."""
        scaler = self._scaler
        return Weights(
            SETTINGS,
            self.learned,
            dict(scaler.counts),
            dict(scaler.means),
            dict(scaler.vars),
            {name: float(weight) for name, weight in self._sgd.weights.items()},
            float(self._sgd.intercept),
            {name: float(weight) for name, weight in self._passive.weights.items()},
            float(self._passive.intercept),
        )

    def _inputs(self, seen: Seen) -> dict[str, float]:
        scaled = self._scaler.transform_one(seen.numbers)
        inputs = {name: max(-FURTHEST, min(FURTHEST, float(value))) for name, value in scaled.items()}
        inputs.update(dict.fromkeys(seen.flags, 1.0))
        return inputs
