"""Linear models that learn row by row, from river: one by SGD, and a passive-aggressive one.

They are baselines. What they see of a row are the deployed model's own features: numbers, scaled by the mean and
variance of the rows learned so far, and categories, one-hot. A missing number is at the mean, and a flag says that it
is missing: the rule of training, by which missing is a value of its own. A missing category is the category "".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from airtight.errors import TerminalError
from components.schema import ExampleSchema
from streaming.learning.declaration import ModelSettings

NAMES = ("sgd", "passive_aggressive")
"""The models, in the order of their answers."""


class Inputs(msgspec.Struct, frozen=True):
    """A row as the models see it, not scaled yet.

    Args:
      numbers: Finite numbers by feature; those that are missing are not there.
      flags: Names of inputs that are 1: `shop=a`, `temp?` for a missing temperature.
    """

    numbers: dict[str, float]
    flags: list[str]

    @classmethod
    def of(cls, row: Mapping[str, Any], schema: ExampleSchema) -> Inputs:
        """A row's features, by the schema's names; a number that is NaN, infinite or None is missing."""
        numbers, flags = {}, []
        for name in schema.of_kind("number"):
            value = row[name]
            if value is not None and math.isfinite(value):
                numbers[name] = float(value)
            else:
                flags.append(f"{name}?")
        flags += [f"{name}={row[name] or ''}" for name in schema.of_kind("category")]
        return cls(numbers, flags)


class Weights(msgspec.Struct):
    """All that the models have learned; finite numbers by input.

    Args:
      settings: `OnlineModels.settings` of those who learned it.
      learned: From how many rows.
      counts: Of how many rows a number is known.
      means: Its mean.
      variances: Its variance, population.
      sgd: Weights of the model by SGD.
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
      task: "binary" or "regression".
      settings: Of the models.
      weights: What they have learned; None for nothing yet.

    Raises:
      TerminalError: It was learned with other settings, or river is not installed.
    """

    def __init__(self, task: str, settings: ModelSettings, weights: Weights | None = None) -> None:
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
        rate, step = settings.learning_rate, settings.aggressiveness
        self.settings = f"river: {task}, sgd {rate}, pa-1 {step}, clip {settings.clip}"
        self.learned = 0
        self._is_binary, self._clip = task == "binary", settings.clip
        self._scaler = preprocessing.StandardScaler()
        linear: Any = linear_model.LogisticRegression if self._is_binary else linear_model.LinearRegression
        self._sgd: Any = linear(optim.SGD(rate), intercept_lr=rate)
        passive_aggressive: Any = linear_model.PAClassifier if self._is_binary else linear_model.PARegressor
        self._passive: Any = passive_aggressive(C=step, mode=1)
        if weights is None:
            return
        if weights.settings != self.settings:
            raise TerminalError(
                "The online models' state was made with other settings.",
                expected=self.settings,
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

    def predict(self, inputs: Inputs) -> tuple[float, float]:
        """What each of `NAMES` predicts: the probability that the label is 1, or the label of a regression.

        The passive-aggressive classifier knows margins, no probabilities: its answer ranks rows, and is not calibrated.
        """
        x = self._scaled(inputs)
        if self._is_binary:
            return float(self._sgd.predict_proba_one(x)[True]), float(self._passive.predict_proba_one(x)[True])
        return float(self._sgd.predict_one(x)), float(self._passive.predict_one(x))

    def learn(self, inputs: Inputs, label: float) -> None:
        """Takes a label in."""
        self._scaler.learn_one(inputs.numbers)
        x = self._scaled(inputs)
        y = bool(label) if self._is_binary else label
        self._sgd.learn_one(x, y)
        self._passive.learn_one(x, y)
        self.learned += 1

    def weights(self) -> Weights:
        """All that was learned."""
        scaler = self._scaler
        return Weights(
            self.settings,
            self.learned,
            dict(scaler.counts),
            dict(scaler.means),
            dict(scaler.vars),
            {name: float(weight) for name, weight in self._sgd.weights.items()},
            float(self._sgd.intercept),
            {name: float(weight) for name, weight in self._passive.weights.items()},
            float(self._passive.intercept),
        )

    def _scaled(self, inputs: Inputs) -> dict[str, float]:
        scaled = self._scaler.transform_one(inputs.numbers)
        clip = self._clip
        return {name: max(-clip, min(clip, float(value))) for name, value in scaled.items()} | dict.fromkeys(
            inputs.flags, 1.0
        )
