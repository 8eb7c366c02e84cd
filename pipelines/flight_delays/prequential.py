"""Predict, then learn: every flight is scored at its cut-off by models that have seen no label of later than that.

Events are taken by whole hours, in one order that does not depend on how they came. A flight is predicted when time
comes to its cut-off, with what was known before; what was said waits for the label, and when that has arrived, the
models learn from it. A flight that never gets one is forgotten. One hour's work is kept as one transaction: the models,
the flights that wait and the answers are always of the same moment, so that a restart goes on as if nothing had been.
"""

from __future__ import annotations

import hashlib
import heapq
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from airtight.errors import TerminalError, TransientError
from pipelines.flight_delays import clock, features
from pipelines.flight_delays.events import Arrival, Departure, Event, Flight, Plan, Weather, key, minute
from pipelines.flight_delays.online_models import OnlineModels, Seen, Weights

EXPIRES = timedelta(days=2)
"""A flight that has not arrived so long after its schedule is not expected any more: it was cancelled."""
SCHEMA: Final = 1

_ORDER: dict[type, int] = {Weather: 0, Plan: 1, Departure: 2, Arrival: 3}
"""Of one instant. What is known at a cut-off comes before the prediction, what happens at it afterwards."""
_HAPPENS = (Departure, Arrival)

Features = Callable[[Sequence[Flight]], Sequence[dict[str, Any]]]
"""Features of flights, each at its own cut-off."""
Deployed = Callable[[Sequence[dict[str, Any]]], Sequence[float | None]]
"""What the deployed model says to features, each once; None where there is no such model (yet)."""


class Waiting(msgspec.Struct):
    """A flight that was predicted and has no label yet.

    Args:
      day: Local day of the scheduled departure.
      expires: When it is forgotten, minutes since 1970.
      seen: What the models saw of it.
      answers: What they said, by the order of `online_models.NAMES`.
      deployed: What the deployed model said; None when it was not asked.
    """

    day: str
    expires: int
    seen: Seen
    answers: tuple[float, float]
    deployed: float | None = None


class State(msgspec.Struct):
    """All that a restart needs.

    Args:
      hour: The last hour taken, hours since 1970.
      weights: What was learned.
      planned: Flights whose cut-off has not come, by id.
      waiting: Flights that wait for their label, by id.
      counts: What became of the flights so far.
      offsets: From which to read the topic, by partition; empty where the lake was read.
    """

    schema: Literal[1]
    hour: int
    weights: Weights
    planned: dict[str, Plan]
    waiting: dict[str, Waiting]
    counts: dict[str, int]
    offsets: dict[int, int] = {}


class Answer(NamedTuple):
    """A prediction whose label has come: id, local day, 0 or 1, and what each model said."""

    flight_id: str
    day: str
    label: int
    sgd: float
    passive_aggressive: float
    deployed: float | None


class Prequential:
    """Scores and learns, hour by hour.

    Args:
      features_of: Looks features up.
      deployed: Asks the deployed model; None for nobody to ask.
      state: Where to go on; None to begin.

    Raises:
      TerminalError: As `OnlineModels`.
    """

    def __init__(self, features_of: Features, deployed: Deployed | None = None, state: State | None = None) -> None:
        self._features, self._deployed = features_of, deployed
        self.hour = None if state is None else state.hour
        self.models = OnlineModels(None if state is None else state.weights)
        self.planned: dict[str, Plan] = {} if state is None else dict(state.planned)
        self.waiting: dict[str, Waiting] = {} if state is None else dict(state.waiting)
        self.counts: Counter[str] = Counter({} if state is None else state.counts)
        self._due = [(_cutoff(plan), name) for name, plan in self.planned.items()]
        heapq.heapify(self._due)

    def take(self, hour: int, events: Iterable[Event]) -> list[Answer]:
        """Takes one whole hour.

        Args:
          hour: Hours since 1970, after the last one; nothing is done with one that was taken already.
          events: All that became known in it, in any order; of one kind and flight the last counts.

        Returns:
          The predictions whose label came in this hour.
        """
        if self.hour is not None and hour <= self.hour:
            return []
        asked: list[tuple[Waiting, dict[str, Any]]] = []
        labelled: list[tuple[str, Waiting, int]] = []
        for event in sorted(events, key=lambda event: (event.at, _ORDER[type(event)], key(event))):
            self._predict(event.at.timestamp() / 60, isinstance(event, _HAPPENS), asked)
            if isinstance(event, Plan):
                self._plan(event)
            elif isinstance(event, Arrival):
                self._learn(event, labelled)
        self._predict((hour + 1) * 60, False, asked)
        if self._deployed is not None and asked:
            told = self._deployed([row for _, row in asked])
            for (waiting, _), said in zip(asked, told, strict=True):
                waiting.deployed = said
            if lacking := sum(said is None for said in told):
                self.counts["no deployed model to ask"] += lacking
        self._expire((hour + 1) * 60)
        self.hour = hour
        return [Answer(name, each.day, label, *each.answers, each.deployed) for name, each, label in labelled]

    def state(self, offsets: Mapping[int, int] | None = None) -> State:
        """Where a later one goes on, with the topic's offsets. Only after `take`."""
        if self.hour is None:
            raise ValueError("no hour was taken yet")
        weights = self.models.weights()
        planned, waiting, counts = dict(self.planned), dict(self.waiting), dict(self.counts)
        return State(SCHEMA, self.hour, weights, planned, waiting, counts, dict(offsets or {}))

    def _plan(self, plan: Plan) -> None:
        if plan.flight_id in self.waiting or _cutoff(plan) < minute(plan.at):
            self.counts["plan too late"] += 1
            return
        self.planned[plan.flight_id] = plan
        heapq.heappush(self._due, (_cutoff(plan), plan.flight_id))

    def _predict(self, now: float, inclusive: bool, asked: list[tuple[Waiting, dict[str, Any]]]) -> None:
        """Predicts the flights whose cut-off lies before a minute; `inclusive`: or is that minute."""
        due: list[Plan] = []
        while self._due and (self._due[0][0] < now or (inclusive and self._due[0][0] == now)):
            cutoff, name = heapq.heappop(self._due)
            # A plan that changed has another place in the queue.
            if name in self.planned and _cutoff(self.planned[name]) == cutoff:
                due.append(self.planned.pop(name))
        if not due:
            return
        for plan, row in zip(due, self._features(due), strict=True):
            seen = Seen.of(row)
            expires = minute(plan.scheduled_arrival + EXPIRES)
            waiting = Waiting(plan.local_day.isoformat(), expires, seen, self.models.predict(seen))
            self.waiting[plan.flight_id] = waiting
            asked.append((waiting, row))
        self.counts["predicted"] += len(due)

    def _learn(self, event: Arrival, labelled: list[tuple[str, Waiting, int]]) -> None:
        if self.planned.pop(event.flight_id, None) is not None:
            self.counts["arrived before its cut-off"] += 1
        waiting = self.waiting.pop(event.flight_id, None)
        if waiting is None:
            return
        if event.delay is None:
            self.counts["diverted"] += 1
            return
        late = event.delay > features.LATE_MINUTES
        self.models.learn(waiting.seen, late)
        labelled.append((event.flight_id, waiting, int(late)))
        self.counts["learned"] += 1

    def _expire(self, now: int) -> None:
        old = [name for name, each in self.waiting.items() if each.expires <= now]
        for name in old:
            del self.waiting[name]
        self.counts["expired"] += len(old)


def _cutoff(plan: Plan) -> int:
    return minute(clock.cutoff(plan.scheduled_departure))


_TABLES = (
    "CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY CHECK (one = 1), body BLOB, digest TEXT)",
    "CREATE TABLE IF NOT EXISTS answers (flight_id TEXT PRIMARY KEY, day TEXT, label INTEGER, sgd REAL, "
    "passive_aggressive REAL, deployed REAL) WITHOUT ROWID",
)


class Book:
    """The state as JSON with its digest, and all answers, in one SQLite file.

    Args:
      path: The file; it is made where it is missing.

    Raises:
      TerminalError: It is no such file, or the state in it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            for statement in ("PRAGMA journal_mode = WAL", *_TABLES):
                self._db.execute(statement)
            self._db.execute("SELECT one, body, digest FROM state").fetchone()
        except sqlite3.DatabaseError as error:
            raise self._broken(str(error)) from error

    def state(self) -> State | None:
        """The state that was written last; None in a new file."""
        try:
            row = self._db.execute("SELECT body, digest FROM state").fetchone()
            if row is None:
                return None
            if _digest(row[0]) != row[1]:
                raise self._broken("a state that is not the one its digest is of")
            return msgspec.json.decode(row[0], type=State)
        except (sqlite3.DatabaseError, msgspec.DecodeError, TypeError) as error:
            raise self._broken(str(error)) from error

    def write(self, state: State, answers: Sequence[Answer]) -> None:
        """Writes a state and the answers since the last one: both or neither.

        Raises:
          TransientError: The disk is full, or somebody else holds the file for long.
        """
        body = msgspec.json.encode(state)
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)", answers)
                self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?)", (body, _digest(body)))
        except sqlite3.OperationalError as error:
            raise TransientError(
                f"The state of online learning, {self.path}, cannot be written now.",
                expected="a file that can be written, not held for long by others",
                received=str(error),
                remedy="See that the disk has room and that one command alone uses the file; then retry.",
            ) from error

    def answers(self) -> dict[str, np.ndarray]:
        """All answers by the fields of `Answer`, in the order of day and id, [rows] each; NaN where nobody answered."""
        rows = self._db.execute(f"SELECT {', '.join(Answer._fields)} FROM answers ORDER BY day, flight_id").fetchall()
        columns = list(zip(*rows, strict=True)) or [()] * len(Answer._fields)
        kinds = (object, object, np.int64, np.float64, np.float64, np.float64)
        return {name: np.array(column, kind) for name, column, kind in zip(Answer._fields, columns, kinds, strict=True)}

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()

    def _broken(self, received: str) -> TerminalError:
        return TerminalError(
            f"The state of online learning, {self.path}, cannot be used.",
            expected="the SQLite file that this command has written",
            received=received,
            remedy="Put it back from a copy, or move it away: learning then begins anew.",
        )


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
