"""The interface of a head: from a network's logits to what is learned, judged and served.

A network answers logits [batch, members, outputs]. Each member learns the label by itself, and their predictions are
averaged: one member is an ordinary network, several are an ensemble that shares its lower layers. Predictions have the
form that `components.tasks.Task` gives them: [batch] for a probability or a value, [batch, classes] or
[batch, quantiles].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from airtight.parameters import check_choice
from components.schema import ExampleSchema

CLASSIFY, REGRESS = "classify", "regress"
"""Signatures on tf.Examples as TensorFlow Serving's Classify and Regress call them, by name."""
METHODS = {CLASSIFY: "tensorflow/serving/classify", REGRESS: "tensorflow/serving/regress"}
"""Their method names in a SavedModel."""
Calibration = Mapping[str, Any]
"""Parameters of a calibration as JSON knows them; empty for none."""


@dataclass(frozen=True)
class LabelStatistics:
    """Encoded labels of all rows.

    Args:
      lowest: The least.
      highest: The greatest.
      mean: By weight.
      deviation: Their standard deviation, by weight.
    """

    lowest: float
    highest: float
    mean: float
    deviation: float


class Head(ABC):
    """What follows from the kind of label in TensorFlow.

    Args:
      schema: Of the pipeline's examples.
      center: Of the labels that are fitted; only a regression takes it and `scale` out of what is learned.
      scale: Their standard deviation.
    """

    calibrations: ClassVar[tuple[str, ...]] = ("none",)
    """Kinds of calibration."""
    method: ClassVar[str]
    """The signature on tf.Examples: `classify` or `regress`."""

    def __init__(self, schema: ExampleSchema, center: float = 0.0, scale: float = 1.0) -> None:
        self.schema, self.center, self.scale = schema, center, scale

    def fitted_to(self, labels: Mapping[str, LabelStatistics]) -> Head:
        """The same head for labels of this mean and standard deviation, by the label's name."""
        own = labels[self.schema.label]
        return type(self)(self.schema, own.mean, own.deviation or 1.0)

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Logits of a member."""

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """What network and trees learn of encoded labels [rows], float32 [rows]; of several labels [rows, labels]."""
        return labels.astype(np.float32)

    @abstractmethod
    def loss(self, target: Any, logits: Any) -> Any:
        """Loss of each row, [batch], mean over the members; target [batch, 1] or [batch, labels]."""

    @abstractmethod
    def predictions(self, logits: Any) -> Any:
        """The members' mean prediction, float32 [batch] or [batch, outputs]."""

    def mixed(self, network: Any | None, ensemble_member: Any | None) -> Any:
        """Predictions of the network and of the ensemble member, half and half; where one is None, the other's."""
        if network is None or ensemble_member is None:
            return network if ensemble_member is None else ensemble_member
        return 0.5 * (network + ensemble_member)

    @abstractmethod
    def scores(self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None) -> dict[str, float]:
        """Measures of encoded labels [rows] and predictions, by name; the first is the loss that chooses an epoch."""

    @property
    @abstractmethod
    def loss_name(self) -> str:
        """The first name of `scores`."""

    @property
    def loss_scale(self) -> float:
        """What `scores` have of the loss, divided by the loss of what is learned."""
        return 1.0

    def check_calibration(self, kind: str) -> None:
        """Refuses a kind of calibration that this head does not have.

        Raises:
          TerminalError: It has no such kind.
        """
        check_choice("calibrate", kind, self.calibrations)

    def fit_calibration(
        self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None, kind: str
    ) -> Calibration:
        """Parameters that correct predictions on rows that were not fitted; empty where there is nothing to correct.

        Raises:
          TerminalError: This head has no such kind of calibration.
        """
        self.check_calibration(kind)
        return {} if kind == "none" or not len(labels) else self._calibration(labels, predictions, weights, kind)

    def _calibration(
        self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None, kind: str
    ) -> Calibration:
        return {}

    def calibrated(self, predictions: Any, parameters: Calibration) -> Any:
        """Corrected predictions, a tensor; of quantiles never crossing."""
        return predictions

    @abstractmethod
    def served(self, predictions: Any) -> dict[str, Any]:
        """The served outputs by name, each [batch, ...]."""

    @abstractmethod
    def examples_outputs(self, predictions: Any) -> dict[str, Any]:
        """The outputs of the signature `method`, as TensorFlow Serving names them."""

    @property
    def examples_signatures(self) -> Mapping[str, tuple[str, Callable[[Any], dict[str, Any]]]]:
        """Signatures on tf.Examples by name: TensorFlow Serving's method, and the outputs of predictions."""
        return {self.method: (METHODS[self.method], self.examples_outputs)}

    @property
    @abstractmethod
    def objectives(self) -> tuple[Mapping[str, Any], ...]:
        """LightGBM's settings of each booster; their raw scores one after the other are the logits of a member.

        With several labels, `target` is the place of the one that a booster learns.
        """
