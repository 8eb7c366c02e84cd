"""What an example is: its features, label, keys and time. Declared once by each pipeline, read by every engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

DAY = "day"
"""The blocks of a schema that names no column."""


Kind = Literal["number", "category", "categories", "text", "vector", "image"]


@dataclass(frozen=True)
class Feature:
    """One input of the model, as it is requested and stored.

    Args:
      name: Column in the examples and input name of the served model.
      kind: "number" is float32, NaN when missing; "category" and "text" are strings, "" when missing; "categories" is a
        list of strings, empty when missing; "vector" is float32 of one length, NaN when missing; "image" is the bytes
        of a PNG or JPEG, empty when missing.
      description: What it means and when it is known.
      unit: Unit of a number ("minutes", "share", "count"); empty for others.
      length: Values of a vector.
    """

    name: str
    kind: Kind
    description: str
    unit: str = ""
    length: int = 0


@dataclass(frozen=True)
class Label:
    """One more thing that the same model predicts, by a head of its own.

    Args:
      name: Column; what is served of it is called by it, such as `<name>_probability`.
      task: As of `ExampleSchema`.
      classes: Likewise.
      quantiles: Likewise.
      baseline: Likewise.
      baseline_as_is: Likewise.
      loss_weight: How much its loss counts in training beside that of the schema's first label.
    """

    name: str
    task: str = "binary"
    classes: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    baseline: str = ""
    baseline_as_is: bool = False
    loss_weight: float = 1.0


@dataclass(frozen=True)
class ExampleSchema:
    """The columns of the examples of one pipeline.

    Args:
      features: The model's inputs, in order.
      label: Column of what is predicted; its type is the task's (int64 0 or 1 where that is `binary`).
      time: Column of the event's instant (timestamp, UTC), by which examples are ordered and split; "" where rows have
        none, and are split by a hash of their keys.
      keys: Columns that name a row for people (never inputs of the model).
      slices: Columns, of features or keys, by which quality is told apart.
      blocks: What rows that depend on each other have in common: a column of features or keys, or "day" for the local
        day of `time`. An evaluation's intervals come from drawing other blocks; a column of fewer than seven
        values has too few of them, and runs of consecutive rows take their place, which then do depend on each other.
      baseline: The feature that alone is the floor of every model; "" for a constant.
      baseline_as_is: Of a regression, whether the baseline's value is itself the prediction to beat, such as that of
        the same hour last week.
      reference: Of a regression with labels of 0 or more, the number to which they are in proportion, such as what is
        usual; "" for none. Models learn log((label + 1) / (reference + 1)), and answer in the label's unit.
      task: "binary", "multiclass", "regression", or the import string of a `components.tasks.Task`.
      classes: The names of the classes of a multiclass label, in the order of the served probabilities.
      quantiles: Of a regression, rising, each between 0 and 1; () predicts the mean.
      weight: Column of each row's weight, 0 or more, in fitting and in metrics; "" weighs all the same.
      more_labels: What else the model predicts. Only rows of which every label is known are examples.
    """

    features: tuple[Feature, ...]
    label: str
    time: str
    keys: tuple[str, ...]
    slices: tuple[str, ...]
    blocks: str = DAY
    baseline: str = ""
    task: str = "binary"
    classes: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    weight: str = ""
    baseline_as_is: bool = False
    reference: str = ""
    more_labels: tuple[Label, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in order."""
        return (self.label, *(label.name for label in self.more_labels))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a pipeline's transform gives beside LABEL_KNOWN_AT, each once."""
        return tuple(dict.fromkeys(filter(None, (*self.names, *self.labels, self.weight, self.time, *self.keys))))

    @property
    def by_label(self) -> Mapping[str, ExampleSchema]:
        """For each label, by name and in order, the schema with that label alone."""
        if not self.more_labels:
            return {self.label: self}
        alone = {self.label: replace(self, more_labels=())}
        for label in self.more_labels:
            own = {name: value for name, value in vars(label).items() if name not in ("name", "loss_weight")}
            alone[label.name] = replace(self, label=label.name, more_labels=(), reference="", **own)
        return alone

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(feature.name for feature in self.features)

    def of_kind(self, kind: str) -> tuple[str, ...]:
        """Names of the features of one kind, in order."""
        return tuple(feature.name for feature in self.features if feature.kind == kind)


LABEL_KNOWN_AT = "label_known_at"
"""Column (timestamp, UTC) that a pipeline's transform adds: when the label became known, null if it never did."""

PREDICTION = "probability"
"""Name of the served model's output: float32, shape [batch], the probability that the label is 1."""
