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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airtight.home import Home
from airtight.predictions import JOURNAL, REQUEST
from serving import metrics
from serving.config import ModelSettings
from serving.errors import Code, ServingError
from serving.prediction_log.journals import Journal, Journals
from serving.prediction_log.personal import Personal
from serving.prediction_log.rows import HEADERS, Answered, Group, Note, Row, as_row, groups
from serving.prediction_log.settings import Destination, LogSettings
from serving.prediction_log.shipper import Job
from serving.prediction_log.shipper_process import ShipperProcess
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
SPOOL_ROLL_S = 0.5
"""Journals for Kafka are closed after so long."""
SPOOL_LOOK_S = 5.0
"""What lies in the spool is measured so often; what is written meanwhile is added."""
AT_ONCE = 1000
"""Notes that are made into tables together."""
WARN_S = 10.0
"""A warning is repeated at most so often."""
CLOSE_S = 10.0
"""When the server stops, the rest has so long to be written, and so long again to be shipped."""
_NOTE_BYTES = 1000
"""A note without its values, about."""
_LONGEST_HEADER = 1024
"""Of a header's value, so many bytes are kept until it is written."""

ROWS = metrics.Counter(":airtight:serving:prediction_log_rows", "Rows of the prediction log written.", "model_name")
DROPPED = metrics.Counter(
    ":airtight:serving:prediction_log_dropped", "Notes and rows of it lost.", "model_name", "reason"
)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is logged of a model, worked out once for its settings."""

    of: ModelSettings
    destination: Destination | None
    rate: float


@dataclass(slots=True)
class _Sink:
    """Where the rows of one destination go.

    Args:
      journals: The journals.
      job: What the shipper makes of them.
      counts: Whether a row counts as written once it is in a journal.
      spooled: Bytes that wait for Kafka, about.
      measured_at: When they were measured.
    """

    journals: Journals
    job: Job
    counts: bool
    spooled: int = 0
    measured_at: float = float("-inf")

    def is_full(self, limit: int) -> bool:
        """Whether what waits for Kafka has reached a number of bytes."""
        if self.counts:
            return False
        if time.monotonic() - self.measured_at > SPOOL_LOOK_S:
            self.measured_at = time.monotonic()
            self.spooled = sum(_size(path) for path in self.journals.root.glob(f"*/date=*/.*{JOURNAL}"))
        return self.spooled >= limit


@dataclass(slots=True)
class _Round:
    """What is written together.

    Args:
      written: By journal, the rows that it got: model, number, and their notes.
      errors: By a note's identity, why it could not be written.
    """

    written: dict[Journal, list[tuple[_Sink, str, int, list[Note]]]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


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
        self._personal = Personal.of(settings)
        self._plans: dict[str, _Plan] = {}
        self._queue: deque[tuple[Note, Destination]] = deque()
        # Each is written by one thread alone; what waits is the difference.
        self._bytes_in = self._bytes_out = 0
        self._sinks: dict[Destination, _Sink] = {}
        self._shipper = ShipperProcess()
        self._wake = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._warned: dict[str, tuple[float, int]] = {}

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
    ) -> asyncio.Future[None] | None:
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
        headers = carrier["headers"] if type(carrier) is dict else carrier.invocation_metadata() or ()
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
            self._thread.join(2 * CLOSE_S)
            if self._thread.is_alive():
                logger.error("The prediction log was not closed within %g s; the next server closes it", 2 * CLOSE_S)

    def _refuse(self, model: str, written: asyncio.Future[None] | None) -> None:
        if written is not None:
            written.set_exception(_unavailable("too many answers wait for it"))
            return
        DROPPED.add(model, "queue_full")
        self._warn("queue", 1, "requests are not in the prediction log: they come faster than it is written")

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
            if last or now - looked_at >= TICK_S:
                looked_at = now
                self._guard("", 0, partial(self._roll, last))
            if last:
                self._guard("", 0, lambda: self._count_shipped(self._shipper.close(CLOSE_S)))
                return

    def _take(self) -> dict[tuple[Destination, str], list[Note]]:
        taken: dict[tuple[Destination, str], list[Note]] = {}
        for _ in range(min(AT_ONCE, len(self._queue))):
            note, destination = self._queue.popleft()
            taken.setdefault((destination, note.model), []).append(note)
        return taken

    def _write(self, taken: dict[tuple[Destination, str], list[Note]]) -> None:
        together = _Round()
        for (destination, model), notes in taken.items():
            rows = sum(max(1, len(note.calls)) for note in notes)
            self._guard(model, rows, partial(self._write_notes, destination, model, notes, together), notes, together)
        for journal, parts in together.written.items():
            rows = sum(number for _, _, number, _ in parts)
            notes = [note for part in parts for note in part[3]]
            sync = partial(parts[0][0].journals.sync, journal)
            if self.durable and self._guard(parts[0][1], rows, sync, notes, together):
                continue
            for sink, model, number, _ in parts:
                if sink.counts:
                    self._count(ROWS, number, model)
        if self.durable:
            self._release([note for notes in taken.values() for note in notes if note.written], together.errors)
        self._bytes_out += sum(note.size for notes in taken.values() for note in notes)

    def _write_notes(self, destination: Destination, model: str, notes: list[Note], together: _Round) -> None:
        sink = self._sinks.get(destination)
        if sink is None:
            sink = self._sinks[destination] = self._open(destination)
            self._shipper.look(sink.job)
        if sink.is_full(self._settings.spool_bytes):
            raise _SpoolFull(f"{sink.journals.root} has {sink.spooled} bytes that Kafka has not taken")
        for group in groups(notes):
            # Each by itself: calls of which no table can be made take no others with them.
            write = partial(self._write_group, sink, model, group, together)
            self._guard(model, group.rows, write, [note for note, _ in group.entries], together)

    def _write_group(self, sink: _Sink, model: str, group: Group, together: _Round) -> None:
        batch = group.batch(self._personal)
        sink.spooled += batch.nbytes
        notes = [note for note, _ in group.entries]
        journal = sink.journals.write(model, group.date, batch)
        together.written.setdefault(journal, []).append((sink, model, len(batch), notes))

    def _guard(
        self,
        model: str,
        rows: int,
        action: Callable[[], None],
        notes: Sequence[Note] = (),
        together: _Round | None = None,
    ) -> bool:
        """Runs a part of the work; what goes wrong is counted and logged, and the thread goes on. Answers whether."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next rows may be written, and requests go on.
            reason = f"{type(error).__name__}: {error}"
            if rows:
                self._count(DROPPED, rows, model, "spool_full" if isinstance(error, _SpoolFull) else "not_written")
                self._warn("write", rows, f"rows are not in the prediction log: {reason}")
            else:
                self._warn("roll", 1, f"times files of the prediction log could not be closed: {reason}")
            if together is not None:
                together.errors.update((id(note), reason) for note in notes)
            return True
        return False

    def _release(self, notes: list[Note], errors: dict[int, str]) -> None:
        assert self._loop is not None, "the thread runs"
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_answer, [(note.written, errors.get(id(note))) for note in notes])

    def _roll(self, everything: bool) -> None:
        for sink in self._sinks.values():
            if sink.journals.roll(everything):
                self._shipper.look(sink.job)
        self._count_shipped(self._shipper.reports())

    def _count_shipped(self, reports: list[dict[str, Any]]) -> None:
        for report in reports:
            self._count(ROWS, report["written"], report["model"])
            if report["too_large"]:
                self._count(DROPPED, report["too_large"], report["model"], "too_large")

    def _open(self, destination: Destination) -> _Sink:
        ours = self._settings
        if destination.kind == "parquet":
            journals = Journals(Path(destination.target), ours.roll_s, ours.durable)
            return _Sink(journals, Job(str(journals.root.absolute()), journals.owner), counts=True)
        name = quote(f"{destination.servers}/{destination.target}", safe="")
        fallback = ours.fallback.absolute() if ours.fallback else None
        spool = ours.spool or (fallback / ".spool" if fallback else _private_spool())
        if fallback is None and ours.durable:
            fallback = spool / "too-large"  # What no message holds is not lost either.
        journals = Journals(spool / name, SPOOL_ROLL_S, ours.durable)
        root, fallback_folder = str(journals.root.absolute()), str(fallback.absolute()) if fallback else ""
        job = Job(root, journals.owner, destination.servers, destination.target, fallback_folder)
        return _Sink(journals, job, counts=False)

    def _count(self, counter: metrics.Counter, amount: int, *values: str) -> None:
        # Metrics belong to the event loop's thread.
        assert self._loop is not None, "the thread runs"
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(partial(counter.add, *values, amount=amount))

    def _warn(self, kind: str, amount: int, message: str) -> None:
        last, count = self._warned.get(kind, (-WARN_S, 0))
        now = time.monotonic()
        if now - last < WARN_S:
            self._warned[kind] = (last, count + amount)
            return
        self._warned[kind] = (now, 0)
        logger.warning("%d %s", count + amount, message)


class _SpoolFull(Exception):
    """Kafka has not taken rows for long."""


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


def _private_spool() -> Path:
    run = Home.current().run
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    return run / "prediction-spool"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sampled(named: dict[str, Any], rate: float) -> bool:
    """Whether a request is logged: by the hash of its id, so that all servers agree; by chance where it has none."""
    request_id = named.get(REQUEST)
    if request_id is None:
        return random.random() < rate
    content = request_id.encode() if isinstance(request_id, str) else request_id
    return int.from_bytes(blake2b(content, digest_size=8).digest()) < rate * 2**64
