"""Requests leave a note; a thread of its own makes rows of the notes and writes them.

A request's part is to append to a queue: no lock, no formatting, no wake-up. The queue is bounded in notes and in
bytes; what does not fit is dropped, counted and told. Nothing that goes wrong here reaches a request.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from serving import metrics
from serving.config import ModelSettings
from serving.prediction_log.kafka_sink import KafkaSink, NotTaken
from serving.prediction_log.parquet_sink import ParquetSink
from serving.prediction_log.personal import Personal
from serving.prediction_log.rows import REQUEST_HEADER, Answered, Group, Note, groups
from serving.prediction_log.settings import Destination, LogSettings
from serving.signature import size_of
from serving.versions import Registry

logger = logging.getLogger(__name__)

MAX_NOTES = 20_000
MAX_BYTES = 64 << 20
"""What may wait for the thread; the arrays of requests and answers are kept, not copied."""
TICK_S = 0.25
"""The thread looks so often."""
AT_ONCE = 1000
"""Notes that are made into tables together."""
SAY_S = 10.0
"""A trouble is told at most so often."""
CLOSE_S = 20.0
"""When the server stops, the rest has so long to be written."""
_NOTE_BYTES = 1000
"""A note without its arrays and headers, about."""

ROWS = metrics.Counter(":airtight:serving:prediction_log_rows", "Rows of the prediction log written.", "model_name")
DROPPED = metrics.Counter(
    ":airtight:serving:prediction_log_dropped", "Notes and rows of it lost.", "model_name", "reason"
)


class Sink(Protocol):
    """Where tables go."""

    def write(self, model: str, table: pa.Table) -> None:
        """Takes the rows, or raises."""

    def roll(self, everything: bool = False) -> None:
        """Closes what is old; or all."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is logged of a model, worked out once for its settings."""

    of: ModelSettings
    destination: Destination | None
    rate: float


class PredictionLog:
    """The prediction log of one server.

    Args:
      settings: What holds for all models.
      registry: The models, whose own settings hold first; they may change at any time.

    Raises:
      TerminalError: The key of hashed columns cannot be used.
    """

    def __init__(self, settings: LogSettings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self._personal = Personal.of(settings)
        self._plans: dict[str, _Plan] = {}
        self._queue: deque[tuple[Note, Destination]] = deque()
        # Each is written by one thread alone; what waits is the difference.
        self._bytes_in = self._bytes_out = 0
        self._sinks: dict[Destination, Sink] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._said: dict[str, tuple[float, int]] = {}

    def note(
        self,
        model: str,
        label: str | None,
        method: str,
        code: str,
        seconds: float,
        *,
        protocol: str,
        carrier: Any,
        calls: Sequence[Answered],
    ) -> None:
        """Notes a request that was answered; on the event loop's thread.

        Args:
          model: Its model.
          label: The label that it asked for, or None.
          method: "Predict", "Classify", ...
          code: The name of gRPC's code; one that was cancelled was not answered.
          seconds: From its arrival to its answer.
          protocol: "REST" or "gRPC".
          carrier: ASGI's scope or gRPC's context, which have the headers.
          calls: What was called.
        """
        served = self._registry.models.get(model)
        if served is None:
            return  # Names that people make up have no log.
        plan = self._plans.get(model)
        if plan is None or plan.of is not served.settings:
            plan = self._plan(model, served.settings)
        rate, destination = plan.rate, plan.destination
        if not rate or destination is None or code == "CANCELLED":
            return
        headers = carrier["headers"] if type(carrier) is dict else carrier.invocation_metadata() or ()
        if rate < 1 and not _sampled(headers, rate):
            return
        size = _NOTE_BYTES + sum(len(name) + len(value) for name, value in headers)
        size += sum(size_of(call.inputs) + size_of(call.outputs) for call in calls)
        if len(self._queue) >= MAX_NOTES or self._bytes_in - self._bytes_out + size > MAX_BYTES:
            DROPPED.add(model, "queue_full")
            self._say("queue", 1, "requests are not in the prediction log: they come faster than it is written")
            return
        self._bytes_in += size
        self._queue.append(
            (Note(time.time(), model, label, protocol, method, code, seconds, headers, calls, rate, size), destination)
        )
        if self._thread is None:
            self._start()

    def close(self) -> None:
        """Writes what waits and closes the files; call it when no request runs, off the event loop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            if self._thread.is_alive():
                logger.error("The prediction log was not closed within %g s; the next server closes it", CLOSE_S)

    def _plan(self, model: str, settings: ModelSettings) -> _Plan:
        told, ours = settings.logging, self._settings
        destination, rate = ours.destination, ours.sampling_rate
        if told is not None:
            destination, rate = told.destination or destination, told.sampling_rate
        if destination is not None and destination.kind == "kafka" and not destination.servers:
            destination = Destination("kafka", destination.where, ours.kafka_servers)
        if told is not None and destination is None and rate:
            logger.warning("The logging_config of %s names no place, and --prediction_log neither: no log", model)
        plan = self._plans[model] = _Plan(settings, destination, rate)
        return plan

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            last = self._stopping.wait(TICK_S)
            while self._queue:
                self._write(self._taken())
            for sink in self._sinks.values():
                self._guarded("", 0, partial(sink.roll, last))
            if last:
                return

    def _taken(self) -> dict[tuple[Destination, str], list[Note]]:
        taken: dict[tuple[Destination, str], list[Note]] = {}
        for _ in range(min(AT_ONCE, len(self._queue))):
            note, destination = self._queue.popleft()
            taken.setdefault((destination, note.model), []).append(note)
        return taken

    def _write(self, taken: dict[tuple[Destination, str], list[Note]]) -> None:
        for (destination, model), notes in taken.items():
            rows = sum(max(1, len(note.calls)) for note in notes)
            self._guarded(model, rows, partial(self._write_notes, destination, model, notes))
            self._bytes_out += sum(note.size for note in notes)

    def _write_notes(self, destination: Destination, model: str, notes: list[Note]) -> None:
        sink = self._sinks.get(destination)
        if sink is None:
            sink = self._sinks[destination] = self._opened(destination)
        for group in groups(notes, self._personal):
            # Each by itself: calls of which no table can be made take no others with them.
            self._guarded(model, len(group.entries), partial(self._write_group, sink, model, group))

    def _write_group(self, sink: Sink, model: str, group: Group) -> None:
        table = group.table(self._personal)
        lost = self._guarded(model, table.num_rows, partial(sink.write, model, table))
        self._count(ROWS, table.num_rows - lost, model)

    def _guarded(self, model: str, rows: int, action: Callable[[], None]) -> int:
        """Runs a part of the work; what goes wrong is counted and told, and the thread goes on. Answers rows lost."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next rows may be written, and requests go on.
            lost = error.rows if isinstance(error, NotTaken) else rows
            if lost:
                self._count(DROPPED, lost, model, "not_written")
            what = "rows are not in the prediction log" if lost else "files of the prediction log are not closed yet"
            self._say("write" if lost else "roll", lost or 1, f"{what}: {type(error).__name__}: {error}")
            return lost
        return 0

    def _opened(self, destination: Destination) -> Sink:
        ours = self._settings
        if destination.kind == "parquet":
            return ParquetSink(Path(destination.where), ours.roll_s)
        fallback = ParquetSink(ours.fallback, ours.roll_s) if ours.fallback else None
        return KafkaSink(destination.servers, destination.where, fallback)

    def _count(self, counter: metrics.Counter, amount: int, *values: str) -> None:
        # Metrics belong to the event loop's thread.
        assert self._loop is not None, "the thread runs"
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(partial(counter.add, *values, amount=amount))

    def _say(self, what: str, amount: int, words: str) -> None:
        last, count = self._said.get(what, (-SAY_S, 0))
        now = time.monotonic()
        if now - last < SAY_S:
            self._said[what] = (last, count + amount)
            return
        self._said[what] = (now, 0)
        logger.warning("%d %s", count + amount, words)


def _sampled(headers: Sequence[tuple[Any, Any]], rate: float) -> bool:
    """Whether a request is logged: by the hash of its id, so that all servers agree; by chance where it has none."""
    for name, value in headers:
        if name in (REQUEST_HEADER, _REQUEST_BYTES):
            told = value.encode() if isinstance(value, str) else value
            return int.from_bytes(blake2b(told, digest_size=8).digest()) < rate * 2**64
    return random.random() < rate


_REQUEST_BYTES = REQUEST_HEADER.encode()
