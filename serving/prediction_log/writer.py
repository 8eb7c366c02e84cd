"""Notes into journals: what the prediction log's thread does, and nobody else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airtight.home import Home
from airtight.predictions import JOURNAL
from serving import metrics
from serving.prediction_log.journals import Journal, Journals
from serving.prediction_log.notes import Note
from serving.prediction_log.personal import Personal
from serving.prediction_log.rows import Group, groups
from serving.prediction_log.settings import Destination, LogSettings
from serving.prediction_log.shipper import Job
from serving.prediction_log.shipper_process import ShipperProcess

logger = logging.getLogger(__name__)

SPOOL_ROLL_S = 0.5
"""Journals for Kafka are closed after so long."""
SPOOL_LOOK_S = 5.0
"""What lies in the spool is measured so often; what is written meanwhile is added."""
WARN_S = 10.0
"""A warning is repeated at most so often."""
CLOSE_S = 10.0
"""When the server stops, the shipper has so long to finish."""

ROWS = metrics.Counter(
    "airtight_serving_prediction_log_rows_total", "Rows of the prediction log written.", "model_name"
)
BROKEN = metrics.Counter(
    "airtight_serving_prediction_log_broken_journals_total",
    "Journals of the prediction log that are kept, as not all of them can be read.",
    "model_name",
)
DROPPED = metrics.Counter(
    "airtight_serving_prediction_log_dropped_total", "Notes and rows of it lost.", "model_name", "reason"
)


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


class Warnings:
    """Warnings that are repeated at most every `WARN_S`."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, int]] = {}

    def warn(self, kind: str, amount: int, message: str) -> None:
        """Logs that something befell so many, or counts them until it is time to."""
        last, count = self._last.get(kind, (-WARN_S, 0))
        now = time.monotonic()
        if now - last < WARN_S:
            self._last[kind] = (last, count + amount)
            return
        self._last[kind] = (now, 0)
        logger.warning("%d %s", count + amount, message)


class Writer:
    """Makes batches of notes, and appends them to journals.

    Args:
      settings: What holds for all models.
      warnings: Where to complain.
      count: Adds to a counter.

    Raises:
      TerminalError: The key of hashed columns cannot be used.
    """

    def __init__(self, settings: LogSettings, warnings: Warnings, count: Callable[..., None]) -> None:
        self._settings, self._warnings, self._count = settings, warnings, count
        self._personal = Personal.of(settings)
        self._sinks: dict[Destination, _Sink] = {}
        self._shipper = ShipperProcess()

    def write(self, taken: Mapping[tuple[Destination, str], list[Note]]) -> dict[int, str]:
        """Writes the notes, and where the log is durable has the disk keep them.

        Args:
          taken: By destination and model.

        Returns:
          By the identities of notes, why they could not be written.
        """
        together = _Round()
        for (destination, model), notes in taken.items():
            rows = sum(max(1, len(note.calls)) for note in notes)
            self._guard(model, rows, partial(self._write_notes, destination, model, notes, together), notes, together)
        for journal, parts in together.written.items():
            rows = sum(number for _, _, number, _ in parts)
            notes = [note for part in parts for note in part[3]]
            sync = partial(parts[0][0].journals.sync, journal)
            if self._settings.durable and self._guard(parts[0][1], rows, sync, notes, together):
                continue
            for sink, model, number, _ in parts:
                if sink.counts:
                    self._count(ROWS, number, model)
        return together.errors

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
                self._warnings.warn("write", rows, f"rows are not in the prediction log: {reason}")
            else:
                self._warnings.warn("roll", 1, f"times files of the prediction log could not be closed: {reason}")
            if together is not None:
                together.errors.update((id(note), reason) for note in notes)
            return True
        return False

    def roll(self, everything: bool = False) -> None:
        """Closes the journals that are old or large, or all, and hears of the shipper."""
        self._guard("", 0, partial(self._roll, everything))

    def close(self) -> None:
        """Closes all journals and has the shipper finish."""
        self.roll(everything=True)
        self._guard("", 0, lambda: self._count_shipped(self._shipper.close(CLOSE_S)))

    def _roll(self, everything: bool) -> None:
        for sink in self._sinks.values():
            if sink.journals.roll(everything):
                self._shipper.look(sink.job)
        self._count_shipped(self._shipper.reports())

    def _count_shipped(self, reports: list[dict[str, Any]]) -> None:
        for report in reports:
            if report["written"]:
                self._count(ROWS, report["written"], report["model"])
            if report["too_large"]:
                self._count(DROPPED, report["too_large"], report["model"], "too_large")
            if report["broken"]:
                self._count(BROKEN, report["broken"], report["model"])

    def _open(self, destination: Destination) -> _Sink:
        ours = self._settings
        if destination.kind == "parquet":
            journals = Journals(Path(destination.target), ours.roll_s, ours.durable)
            return _Sink(journals, Job(str(journals.root.absolute()), journals.owner), counts=True)
        name = quote(f"{destination.servers}/{destination.target}", safe="")
        fallback = ours.fallback.absolute() if ours.fallback else None
        spool = ours.spool or (fallback / ".spool" if fallback else _private_spool())
        too_large = (spool / "too-large").absolute() if fallback is None and ours.durable else None
        journals = Journals(spool / name, SPOOL_ROLL_S, ours.durable)
        job = Job(
            str(journals.root.absolute()),
            journals.owner,
            destination.servers,
            destination.target,
            str(fallback or ""),
            str(too_large or ""),
        )
        return _Sink(journals, job, counts=False)


class _SpoolFull(Exception):
    """Kafka has not taken rows for long."""


def _private_spool() -> Path:
    run = Home.current().run
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    return run / "prediction-spool"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
