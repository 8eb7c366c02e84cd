"""The heads of several labels over one network: each has its own logits, loss, calibration and served outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from airtight.errors import TerminalError
from components.modelling.head import Calibration, Head, LabelStatistics
from components.schema import ExampleSchema
from components.tasks import task_of

LOSS = "loss"
"""The sum of the labels' losses, each in units of what is learned of it."""


class SeveralHeads(Head):
    """See `components.modelling.head.Head`: logits, targets and predictions of one label after those of the other.

    Args:
      schema: Of the pipeline's examples, with several labels.
      heads: By label; those of the labels' tasks where they are not given.
    """

    loss_name = LOSS

    def __init__(self, schema: ExampleSchema, heads: Mapping[str, Head] | None = None) -> None:
        super().__init__(schema)
        self.task = task_of(schema)
        self.heads = heads or {name: part.head for name, part in self.task.parts.items()}
        self.loss_weights = {label.name: label.loss_weight for label in schema.more_labels} | {schema.label: 1.0}

    def fitted_to(self, labels: Mapping[str, LabelStatistics]) -> Head:
        """See `Head`."""
        return SeveralHeads(self.schema, {name: head.fitted_to(labels) for name, head in self.heads.items()})

    @property
    def outputs(self) -> int:
        """Those of all labels."""
        return sum(head.outputs for head in self.heads.values())

    @property
    def loss_scale(self) -> float:
        """None: losses are scaled already."""
        return 1.0

    def targets(self, labels: np.ndarray) -> np.ndarray:
        """Float32 [rows, labels]."""
        own = [head.targets(self.task.labels_of(name, labels)) for name, head in self.heads.items()]
        return np.stack(own, axis=1)

    def loss(self, target: Any, logits: Any) -> Any:
        """The sum of the labels' losses, each times its weight; target [batch, labels]."""
        split = tf.split(logits, [head.outputs for head in self.heads.values()], axis=-1)
        losses = [
            self.loss_weights[name] * head.loss(target[:, place : place + 1], split[place])
            for place, (name, head) in enumerate(self.heads.items())
        ]
        return tf.add_n(losses)

    def predictions(self, logits: Any) -> Any:
        """[batch, outputs]."""
        split = tf.split(logits, [head.outputs for head in self.heads.values()], axis=-1)
        return _joined([head.predictions(own) for head, own in zip(self.heads.values(), split, strict=True)])

    def scores(self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None) -> dict[str, float]:
        """The sum of the losses, and each label's measures."""
        measures = {
            name: head.scores(self.task.labels_of(name, labels), self.task.predictions_of(name, predictions), weights)
            for name, head in self.heads.items()
        }
        total = sum(
            self.loss_weights[name] * measures[name][head.loss_name] / head.loss_scale
            for name, head in self.heads.items()
        )
        named = {f"{name}_{measure}": value for name, own in measures.items() for measure, value in own.items()}
        return {LOSS: total, **named}

    def calibration_kinds(self, text: str) -> Mapping[str, str]:
        """The kind of calibration by label, such as of "late=scale, delay=shift"; "none" for none.

        Raises:
          TerminalError: It cannot be read, or a label has no such kind.
        """
        kinds = dict.fromkeys(self.heads, "none")
        for entry in () if text == "none" else filter(None, map(str.strip, text.split(","))):
            name, _, kind = (part.strip() for part in entry.partition("="))
            if name not in self.heads:
                raise TerminalError(
                    "The parameter calibrate names no label.",
                    expected=f"none, or kinds by label, such as {next(iter(self.heads))}=scale",
                    received=repr(entry),
                    remedy="Correct calibrate.",
                )
            self.heads[name].check_calibration(kind)
            kinds[name] = kind
        return kinds

    def check_calibration(self, kind: str) -> None:
        """See `Head`."""
        self.calibration_kinds(kind)

    def _calibration(
        self, labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray | None, kind: str
    ) -> Calibration:
        kinds = self.calibration_kinds(kind)
        return {
            name: head.fit_calibration(
                self.task.labels_of(name, labels), self.task.predictions_of(name, predictions), weights, kinds[name]
            )
            for name, head in self.heads.items()
        }

    def calibrated(self, predictions: Any, parameters: Calibration) -> Any:
        """Each label's own."""
        own = ((name, head, self.task.predictions_of(name, predictions)) for name, head in self.heads.items())
        return _joined([head.calibrated(values, parameters.get(name, {})) for name, head, values in own])

    def served(self, predictions: Any) -> dict[str, Any]:
        """`<label>_<output>` for each output of each label."""
        return {
            f"{name}_{output}": values
            for name, head in self.heads.items()
            for output, values in head.served(self.task.predictions_of(name, predictions)).items()
        }

    @property
    def examples_signatures(self) -> Mapping[str, tuple[str, Callable[[Any], dict[str, Any]]]]:
        """`<label>_classify` or `<label>_regress` for each label."""
        return {
            f"{name}_{signature}": (method, partial(self._outputs_of, name, answer))
            for name, head in self.heads.items()
            for signature, (method, answer) in head.examples_signatures.items()
        }

    def _outputs_of(self, name: str, answer: Callable[[Any], dict[str, Any]], predictions: Any) -> dict[str, Any]:
        return answer(self.task.predictions_of(name, predictions))

    def examples_outputs(self, predictions: Any) -> dict[str, Any]:
        """Those of the first label."""
        name, head = next(iter(self.heads.items()))
        return head.examples_outputs(self.task.predictions_of(name, predictions))

    @property
    def objectives(self) -> tuple[Mapping[str, Any], ...]:
        """Those of all labels, each with the place of the label that it learns."""
        return tuple(
            {**objective, "target": place}
            for place, head in enumerate(self.heads.values())
            for objective in head.objectives
        )


def _joined(parts: list[Any]) -> Any:
    """[batch] and [batch, outputs] beside each other."""
    return tf.concat([part[:, None] if len(part.shape) == 1 else part for part in parts], axis=1)
