"""Requests leave a note; a thread of its own makes tables of the notes and appends them to journals.

A request's part is to append to a queue, which is bounded in notes and in bytes; the thread looks at it four times a
second. What becomes of the journals is another process's work (`serving.prediction_log.shipper`). What cannot be
written is dropped and counted, and no request waits; but where the log is durable, an answer waits until its rows are
on the disk, together with all that came meanwhile, and is refused where they cannot be.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

from airtight.predictions import REQUEST
from serving import metrics
from serving.config import ModelSettings
from serving.errors import Code, ServingError
from serving.prediction_log.notes import HEADERS, Answered, Note, Row, as_row
from serving.prediction_log.settings import Destination, LogSettings
from serving.prediction_log.writer import CLOSE_S, DROPPED, Warnings, Writer
from serving.signature import size_of
from serving.versions import Registry

logger = logging.getLogger(__name__)

LOSS_S = 1.0
"""What a kill of the server may lose of a log that is not durable: rows of answers no older than this. It is the tick,
and the time to write what came in it."""
MAX_NOTES = 20_000
MAX_BYTES = 64 << 20
"""What may wait for the thread; large arrays of requests and answers are kept, not copied."""
TICK_S = 0.25
"""The thread looks so often."""
AT_ONCE = 1000
"""Notes that are made into tables together."""
WRITE_S = 10.0
"""When the server stops, the rest has so long to be written."""
_NOTE_BYTES = 1000
"""A note without its values, about."""
_LONGEST_HEADER = 1024
"""Of a header's value, so many bytes are kept until it is written."""


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
        self.durable = settings.durable
        """Whether an answer waits for its rows."""
        self._settings, self._registry = settings, registry
        self._warnings = Warnings()
        self._writer = Writer(settings, self._warnings, self._count)
        self._plans: dict[str, _Plan] = {}
        self._queue: deque[tuple[Note, Destination]] = deque()
        # Each is written by one thread alone; what waits is the difference.
        self._bytes_in = self._bytes_out = 0
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def note(
        self,
        model: str,
        label: str | None,
        method: str,
        code: str,
        seconds: float,
        *,
        protocol: str,
        header_source: Any,
        calls: Sequence[Answered],
    ) -> asyncio.Future[None] | None:
        """Notes a request that was answered; on the event loop's thread.

        Args:
          model: Its model.
          label: The label that it asked for, or None.
          method: "Predict", "Classify", ...
          code: The name of gRPC's code; one that was cancelled was not answered.
          seconds: From its arrival to its answer.
          protocol: "REST" or "gRPC".
          header_source: ASGI's scope or gRPC's context, which have the request's headers.
          calls: What was called.

        Returns:
          Where the log is durable and the code is OK, what is done when the rows are on the disk, or fails with the
          `ServingError` to answer instead; None where nothing is to be waited for.
        """
        served, plan = self._registry.models.get(model), self._plans.get(model)
        if served is not None and (plan is None or plan.of is not served.settings):
            plan = self._plan(model, served.settings)
        if plan is None or not (served or calls):
            return None  # Names that people make up have no log; what a model answered before it was removed has.
        rate, destination = plan.rate, plan.destination
        if not rate or destination is None or code == "CANCELLED":
            return None
        headers = header_source["headers"] if type(header_source) is dict else header_source.invocation_metadata() or ()
        named: dict[str, Any] = {}
        for name, value in headers:
            if name in HEADERS:
                named.setdefault(HEADERS[name], value[:_LONGEST_HEADER])
        if rate < 1 and not _sampled(named, rate):
            return None
        kept: Sequence[Answered | Row] = calls
        if code == "OK" and len(calls) == 1:
            row, size = as_row(calls[0])
            kept = (row,)
        else:
            size = sum([size_of(call.inputs) + size_of(call.outputs) for call in calls])
        size += _NOTE_BYTES
        written = asyncio.get_running_loop().create_future() if self.durable and code == "OK" else None
        if self._closing or len(self._queue) >= MAX_NOTES or self._bytes_in - self._bytes_out + size > MAX_BYTES:
            self._refuse(model, written)
            return written
        self._bytes_in += size
        note = Note(time.time(), model, label, protocol, method, code, seconds, named, kept, rate, size, written)
        self._queue.append((note, destination))
        if self._thread is None:
            self._start()
        if written is not None:
            self._wake.set()
        return written

    async def keep(self, *args: Any, **kwargs: Any) -> None:
        """Notes a request as `note` does, and waits until its rows are on the disk.

        Raises:
          ServingError: UNAVAILABLE, they cannot be written; the request is not to be answered.
        """
        written = self.note(*args, **kwargs)
        if written is not None:
            await written

    def close(self) -> None:
        """Writes what waits and has the files closed; call it when no request runs, off the event loop."""
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(WRITE_S + CLOSE_S)
            if self._thread.is_alive():
                logger.error(
                    "The prediction log was not closed within %g s; the next server closes it", WRITE_S + CLOSE_S
                )

    def _refuse(self, model: str, written: asyncio.Future[None] | None) -> None:
        if written is not None:
            written.set_exception(_unavailable("too many answers wait for it"))
            return
        DROPPED.add(model, "queue_full")
        self._warnings.warn("queue", 1, "requests are not in the prediction log: they come faster than it is written")

    def _plan(self, model: str, settings: ModelSettings) -> _Plan:
        own, ours = settings.logging, self._settings
        destination, rate = ours.destination, ours.sampling_rate
        if own is not None:
            destination, rate = own.destination or destination, own.sampling_rate
        if destination is not None and destination.kind == "kafka" and not destination.servers:
            destination = Destination("kafka", destination.target, ours.kafka_servers)
        if own is not None and destination is None and rate:
            logger.warning("The logging_config of %s names no place, and --prediction_log neither: no log", model)
        plan = self._plans[model] = _Plan(settings, destination, rate)
        return plan

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        looked_at = 0.0
        while True:
            self._wake.wait(TICK_S)
            self._wake.clear()
            last = self._closing
            while self._queue:
                self._write(self._take())
            now = time.monotonic()
            if now - looked_at >= TICK_S:
                looked_at = now
                self._writer.roll()
            if last:
                self._writer.close()
                return

    def _take(self) -> dict[tuple[Destination, str], list[Note]]:
        taken: dict[tuple[Destination, str], list[Note]] = {}
        for _ in range(min(AT_ONCE, len(self._queue))):
            note, destination = self._queue.popleft()
            taken.setdefault((destination, note.model), []).append(note)
        return taken

    def _write(self, taken: dict[tuple[Destination, str], list[Note]]) -> None:
        errors = self._writer.write(taken)
        notes = [note for part in taken.values() for note in part]
        if self.durable:
            self._release([note for note in notes if note.written], errors)
        self._bytes_out += sum([note.size for note in notes])

    def _release(self, notes: list[Note], errors: dict[int, str]) -> None:
        assert self._loop is not None, "the thread runs"
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_answer, [(note.written, errors.get(id(note))) for note in notes])

    def _count(self, counter: metrics.Counter, amount: int, *values: str) -> None:
        # Metrics belong to the event loop's thread.
        assert self._loop is not None, "the thread runs"
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(partial(counter.add, *values, amount=amount))


def _answer(waiting: list[tuple[asyncio.Future[None], str | None]]) -> None:
    for future, error in waiting:
        if future.done():
            continue  # Its client has gone, or its time is over.
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(_unavailable(error))


def _unavailable(reason: str) -> ServingError:
    return ServingError(Code.UNAVAILABLE, f"The answer cannot be written to the prediction log: {reason}")


def _sampled(named: dict[str, Any], rate: float) -> bool:
    """Whether a request is logged: by the hash of its id, so that all servers agree; by chance where it has none."""
    request_id = named.get(REQUEST)
    if request_id is None:
        return random.random() < rate
    content = request_id.encode() if isinstance(request_id, str) else request_id
    return int.from_bytes(blake2b(content, digest_size=8).digest()) < rate * 2**64
