"""Predict, then learn: every row is predicted at its cut-off by models that have seen no label of later than that.

Events are taken by whole hours, in one order that does not depend on how they came. A row is predicted when time comes
to its cut-off, with what was known before; the prediction waits for the label, and when that has arrived, the models
learn from it. A row that never gets one is forgotten. One hour's work is kept as one transaction (`book`): the models,
the rows that wait and the answers are always of the same moment, so that a restart goes on as if nothing had been.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from streaming.learning.declaration import Due, Learning, Outcome, Subject
from streaming.learning.models import Inputs, OnlineModels, Weights

SCHEMA: Final = 2

Features = Callable[[Sequence[Any]], Sequence[dict[str, Any]]]
"""Features of instances, each at its own cut-off."""
Deployed = Callable[[Sequence[dict[str, Any]]], Sequence[float | None]]
"""What the deployed model says to features, each once; None where there is no such model (yet)."""
Known = tuple[float, Subject]
"""When it became known, seconds since 1970, and what."""


class Waiting(msgspec.Struct):
    """A row that was predicted and has no label yet.

    Args:
      day: That it counts for.
      expires: When it is forgotten, minutes since 1970.
      inputs: What the models saw of it.
      answers: What they said, by the order of `models.NAMES`.
      deployed: What the deployed model said; None when it was not asked.
    """

    day: str
    expires: int
    inputs: Inputs
    answers: tuple[float, float]
    deployed: float | None = None


class State(msgspec.Struct):
    """All that a restart needs.

    Args:
      hour: The last hour taken, hours since 1970.
      weights: What was learned.
      due: Rows whose cut-off has not come, by id.
      waiting: Rows that wait for their label, by id.
      counts: What became of the rows so far.
      offsets: From which to read the topic, by partition; empty where the lake was read.
      read: Up to which it was read, likewise; empty where an older version has written the state.
      topic: Kafka's id of that topic; empty where it is not known.
    """

    schema: Literal[2]
    hour: int
    weights: Weights
    due: dict[str, Due]
    waiting: dict[str, Waiting]
    counts: dict[str, int]
    offsets: dict[int, int] = {}
    read: dict[int, int] = {}
    topic: str = ""


class Answer(NamedTuple):
    """A prediction whose label has come: id, day, label, and what each model said."""

    id: str
    day: str
    label: float
    sgd: float
    passive_aggressive: float
    deployed: float | None


class Prequential:
    """Predicts and learns, hour by hour.

    Args:
      learning: What the models see, and how they learn.
      features_of: Looks features up.
      deployed: Asks the deployed model; None for nobody to ask.
      state: Where to go on; None to begin.

    Raises:
      TerminalError: As `OnlineModels`.
    """

    def __init__(
        self, learning: Learning, features_of: Features, deployed: Deployed | None = None, state: State | None = None
    ) -> None:
        self._schema, self._features, self._deployed = learning.schema, features_of, deployed
        self.hour = None if state is None else state.hour
        weights = None if state is None else state.weights
        self.models = OnlineModels(self._schema.task, learning.settings, weights)
        self.due: dict[str, Due] = {} if state is None else dict(state.due)
        self.waiting: dict[str, Waiting] = {} if state is None else dict(state.waiting)
        self.counts: Counter[str] = Counter({} if state is None else state.counts)
        self._queue = [(row.cutoff, name) for name, row in self.due.items()]
        heapq.heapify(self._queue)

    def take(self, hour: int, known: Iterable[Known]) -> list[Answer]:
        """Takes one whole hour.

        Args:
          hour: Hours since 1970, after the last one; nothing is done with one that was taken already.
          known: All that became known in it, in any order; of one kind and row the last counts.

        Returns:
          The predictions whose label came in this hour.
        """
        if self.hour is not None and hour <= self.hour:
            return []
        predicted: list[tuple[Waiting, dict[str, Any]]] = []
        labelled: list[tuple[str, Waiting, float]] = []
        # What is due at an instant comes before the predictions of that instant, an outcome afterwards.
        for at, subject in sorted(known, key=lambda one: (one[0], isinstance(one[1], Outcome), one[1].id)):
            self._predict(at / 60, isinstance(subject, Outcome), predicted)
            if isinstance(subject, Due):
                self._plan(subject, at)
            else:
                self._learn(subject, labelled)
        self._predict((hour + 1) * 60, False, predicted)
        if self._deployed is not None and predicted:
            answers = self._deployed([row for _, row in predicted])
            for (waiting, _), answer in zip(predicted, answers, strict=True):
                waiting.deployed = answer
            if lacking := sum(answer is None for answer in answers):
                self.counts["no deployed model to ask"] += lacking
        self._expire((hour + 1) * 60)
        self.hour = hour
        return [Answer(name, row.day, label, *row.answers, row.deployed) for name, row, label in labelled]

    def state(
        self, offsets: Mapping[int, int] | None = None, read: Mapping[int, int] | None = None, topic: str = ""
    ) -> State:
        """Where a later one goes on, with the topic's offsets and id (see `State`). Only after `take`."""
        if self.hour is None:
            raise ValueError("no hour was taken yet")
        due, waiting, counts = dict(self.due), dict(self.waiting), dict(self.counts)
        return State(
            SCHEMA, self.hour, self.models.weights(), due, waiting, counts, dict(offsets or {}), dict(read or {}), topic
        )

    def _plan(self, row: Due, at: float) -> None:
        if row.id in self.waiting or row.cutoff < at // 60:
            self.counts["known after the cut-off"] += 1
            return
        self.due[row.id] = row
        heapq.heappush(self._queue, (row.cutoff, row.id))

    def _predict(self, now: float, inclusive: bool, predicted: list[tuple[Waiting, dict[str, Any]]]) -> None:
        """Predicts the rows whose cut-off lies before a minute; `inclusive`: or is that minute."""
        due: list[Due] = []
        while self._queue and (self._queue[0][0] < now or (inclusive and self._queue[0][0] == now)):
            cutoff, name = heapq.heappop(self._queue)
            # A row whose cut-off changed has another place in the queue.
            if name in self.due and self.due[name].cutoff == cutoff:
                due.append(self.due.pop(name))
        if not due:
            return
        for row, features in zip(due, self._features([row.instance for row in due]), strict=True):
            inputs = Inputs.of(features, self._schema)
            waiting = Waiting(row.day, row.expires, inputs, self.models.predict(inputs))
            self.waiting[row.id] = waiting
            predicted.append((waiting, features))
        self.counts["predicted"] += len(due)

    def _learn(self, outcome: Outcome, labelled: list[tuple[str, Waiting, float]]) -> None:
        if self.due.pop(outcome.id, None) is not None:
            self.counts["label before the cut-off"] += 1
        waiting = self.waiting.pop(outcome.id, None)
        if waiting is None:
            return
        if outcome.label is None:
            self.counts["without a label"] += 1
            return
        self.models.learn(waiting.inputs, outcome.label)
        labelled.append((outcome.id, waiting, outcome.label))
        self.counts["learned"] += 1

    def _expire(self, now: int) -> None:
        old = [name for name, row in self.waiting.items() if row.expires <= now]
        for name in old:
            del self.waiting[name]
        self.counts["expired"] += len(old)
