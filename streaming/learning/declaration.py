"""What a pipeline declares so that models learn from its stream: which rows are due when, and their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from airtight.errors import TerminalError
from airtight.import_string import load
from components.schema import PREDICTION, ExampleSchema
from streaming.windows.declaration import Stream
from streaming.windows.messages import Message
from streaming.windows.store import Store


class Due(msgspec.Struct, frozen=True, tag=True):
    """A row that is to be predicted; a later one of the same id takes its place, until it is predicted.

    Args:
      id: Of the row.
      cutoff: When it is predicted, minutes since 1970.
      expires: When its label is not expected any more, minutes since 1970.
      day: The day that its prediction counts for, ISO 8601.
      instance: What its features are looked up by, as JSON has it.
    """

    id: str
    cutoff: int
    expires: int
    day: str
    instance: dict[str, Any]


class Outcome(msgspec.Struct, frozen=True, tag=True):
    """What became of a row.

    Args:
      id: Of the row.
      label: 0 or 1, or a finite number where the task is regression; None where it gets no label.
    """

    id: str
    label: float | None


Subject = Due | Outcome
Lookup = Callable[[Sequence[Any]], tuple[list[dict[str, Any]], list[dict[str, Any]]]]
"""Features of instances, and how fresh they are: the `Lookup` of `serving.router.online`."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Of the models that learn row by row.

    Args:
      learning_rate: Of SGD; constant, because the rows of the next season are not those of the last.
      aggressiveness: The longest step of the passive-aggressive model (C of PA-I); small where labels are noisy.
      clip: A number so many standard deviations from its mean counts as no further: one odd row must not turn the
        weights.
    """

    learning_rate: float = 0.01
    aggressiveness: float = 0.01
    clip: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Models that learn from a stream, and where the deployed model's answers are that stand beside theirs.

    Args:
      name: Of the pipeline, and of its served model.
      stream: The stream, with a replay; its events fill the store that features are looked up in.
      subjects: Import string of the function (`Message`) -> the rows that it makes due, and outcomes.
      lookup: Import string of what makes of a store a `Lookup`, each instance at its own cut-off.
      schema: Numbers and categories are what the models see; the task is "binary" or "regression".
      history: How long before the beginning events are read, for the longest window.
      zone: IANA name of the time zone of bare days.
      output: The served output, and the column of batch predictions, that holds the prediction.
      settings: Of the models.
    """

    name: str
    stream: Stream
    subjects: str
    lookup: str
    schema: ExampleSchema
    history: timedelta
    zone: str = "UTC"
    output: str = PREDICTION
    settings: ModelSettings = ModelSettings()

    def __post_init__(self) -> None:
        kinds = {feature.kind for feature in self.schema.features} - {"number", "category"}
        if self.schema.task not in ("binary", "regression") or self.schema.more_labels or kinds:
            raise TerminalError(
                f"The models that learn from the stream {self.stream.name} cannot learn such rows.",
                expected="one label, binary or of a regression, and features that are numbers and categories",
                received=f"the task {self.schema.task}, the labels {', '.join(self.schema.labels)}"
                + (f", features of the kinds {', '.join(sorted(kinds))}" if kinds else ""),
                remedy="Declare a schema with the features and the label that these models can use.",
            )

    @property
    def report(self) -> str:
        """The name under which its page lies among the reports, and the DAG's without `_stream`."""
        return f"{self.name}_learning"

    @property
    def reader(self) -> Callable[[Message], Iterable[Subject]]:
        """The function that `subjects` names."""
        return load(self.subjects)

    def lookup_in(self, store: Store) -> Lookup:
        """What looks features up in a store."""
        return load(self.lookup)(store)


def declared(name: str) -> Learning:
    """The learning that a pipeline declares.

    Args:
      name: Of the pipeline, whose module `learning` has it as `LEARNING`; or an import string of it.

    Raises:
      TerminalError: There is none.
    """
    learning = load(name if ":" in name else f"pipelines.{name}.learning:LEARNING")
    if not isinstance(learning, Learning):
        raise TerminalError(
            f"{name} declares no models that learn from a stream.",
            expected="a streaming.learning.declaration.Learning",
            received=repr(learning),
            remedy="Name a pipeline with a module learning, or an import string.",
        )
    return learning
