"""The two accounts by which a crash of the stream does no harm: what was read of each hour, and what was written.

Before the source hands messages on, it enters how many of each hour it has read, of which partition, and from which
offset on. After the sink has written an hour, it enters of how many messages. An hour is done when no message can be
added to it any more and the two numbers are the same. Whatever is killed, at whatever moment, the stream begins again
at the first offset of the hours that are not done, and the sink passes over an hour of which it has more already.

Both are tables of one SQLite file. A message counts once, however often it is read: only offsets that were never read
before are entered. A message that came too late is remembered by its offset as long as it may be read again, so that
every reading decides the same.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from airtight.errors import TerminalError, TransientError

BUSY_S = 30.0
"""A writer waits so long for another one."""
_TABLES = """
CREATE TABLE IF NOT EXISTS stream (run INTEGER NOT NULL, closed INTEGER);
CREATE TABLE IF NOT EXISTS partitions (
  partition INTEGER PRIMARY KEY, next INTEGER NOT NULL, clock INTEGER, recent TEXT NOT NULL,
  bad INTEGER NOT NULL, late INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS hours (
  hour INTEGER, partition INTEGER, first INTEGER NOT NULL, messages INTEGER NOT NULL, PRIMARY KEY (hour, partition));
CREATE TABLE IF NOT EXISTS late (partition INTEGER, offset INTEGER, PRIMARY KEY (partition, offset));
CREATE TABLE IF NOT EXISTS written (hour INTEGER PRIMARY KEY, messages INTEGER NOT NULL);
"""
_UNDONE = """
SELECT hour FROM (SELECT hour, SUM(messages) AS read FROM hours GROUP BY hour) LEFT JOIN written USING (hour)
WHERE hour > (SELECT COALESCE(closed, -1) FROM stream) OR COALESCE(messages, 0) < read
"""


@dataclass(frozen=True)
class Partition:
    """Where a partition stands.

    Args:
      start: The offset at which to begin: whatever is below it is done.
      next: The first offset that was never read.
      clock: How far its messages had come, milliseconds since 1970, or None before anything is known.
      recent: When the last messages before `next` were published, milliseconds since 1970.
      late: Offsets from `start` on whose messages came too late.
    """

    start: int
    next: int
    clock: int | None = None
    recent: tuple[int, ...] = ()
    late: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Resume:
    """Where the stream stands.

    Args:
      run: Number of this run; a run that is not the latest enters nothing any more.
      partitions: By their numbers.
      closed: The newest hour (since 1970) to which no message is added any more, or None.
    """

    run: int
    partitions: Mapping[int, Partition]
    closed: int | None


@dataclass
class Entry:
    """What was read of one partition for the first time.

    Args:
      next: The offset after the last message.
      clock: How far its messages have come, milliseconds since 1970, or None.
      recent: When the last messages were published, milliseconds since 1970.
      hours: The first offset and the number of messages, by hour since 1970.
      bad: How many messages were bad.
      late: How many came too late.
    """

    next: int
    clock: int | None
    recent: tuple[int, ...] = ()
    hours: dict[int, tuple[int, int]] = field(default_factory=dict)
    bad: int = 0
    late: int = 0


@dataclass(frozen=True)
class Standing:
    """What people want to know of a stream.

    Args:
      run: How often it was started.
      closed: The newest hour since 1970 to which no message is added any more, or None.
      next: The first offset that was never read, by partition.
      clocks: How far its messages have come, by partition, milliseconds since 1970 or None.
      messages: Good messages in hours that are remembered.
      bad: Bad messages.
      late: Messages that came too late.
      undone: Hours since 1970 that are not done, in order.
    """

    run: int
    closed: int | None
    next: Mapping[int, int]
    clocks: Mapping[int, int | None]
    messages: int
    bad: int
    late: int
    undone: tuple[int, ...]


class Accounts:
    """The accounts of one stream; any thread and any process may use the same file.

    Args:
      path: The SQLite file, made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Both accounts are in the one file: what a power cut takes from its end, it takes from both.
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_TABLES)
        with self._transaction():
            if self._db.execute("SELECT COUNT(*) FROM stream").fetchone() == (0,):
                self._db.execute("INSERT INTO stream VALUES (0, NULL)")

    def begin(self, logs: Mapping[int, tuple[int, int]], reach: int = 0) -> Resume:
        """Starts a new run; an older one that still lives enters nothing any more.

        Args:
          logs: The first offset that each partition still has, and the offset after its last.
          reach: How many hours before its own the windows of an hour need.

        Returns:
          Where to begin.

        Raises:
          TerminalError: The log no longer holds what is needed.
        """
        with self._transaction():
            self._db.execute("UPDATE stream SET run = run + 1")
            self._db.executemany(
                "INSERT INTO partitions VALUES (?, ?, NULL, '[]', 0, 0) ON CONFLICT DO NOTHING",
                [(partition, first) for partition, (first, _) in logs.items()],
            )
            resume = self._resume(reach)
            for partition, held in resume.partitions.items():
                first, end = logs.get(partition, (0, 0))
                if not (first <= held.start and held.next <= end):
                    raise TerminalError(
                        f"Partition {partition} of the log no longer holds what the stream needs.",
                        expected=f"offsets from {held.start} to {held.next}",
                        received=f"{first} to {end}",
                        remedy=f"Let the topic keep its messages (retention.ms=-1); to begin anew, remove {self.path}.",
                    )
                self._db.execute("DELETE FROM late WHERE partition = ? AND offset < ?", (partition, held.start))
        return resume

    def resume(self, run: int, reach: int = 0) -> Resume:
        """Where a run begins that had begun before.

        Raises:
          TerminalError: Another run has begun since.
        """
        with self._transaction():
            self._check(run)
            return self._resume(reach)

    def turn_away(self, run: int, late: Iterable[tuple[int, int]]) -> None:
        """Remembers messages that came too late, by partition and offset, before anything else is done with them.

        Raises:
          TerminalError: Another run has begun since.
        """
        with self._transaction():
            self._check(run)
            self._db.executemany("INSERT OR IGNORE INTO late VALUES (?, ?)", late)

    def enter(self, run: int, entries: Mapping[int, Entry], closed: int | None) -> None:
        """The source enters what it read for the first time, before it hands it on.

        Args:
          run: Number of its run.
          entries: By partition.
          closed: The newest hour since 1970 to which no message is added any more, or None.

        Raises:
          TerminalError: Another run has begun since.
        """
        with self._transaction():
            self._check(run)
            if closed is not None:
                self._db.execute("UPDATE stream SET closed = MAX(COALESCE(closed, ?1), ?1)", (closed,))
            for partition, entry in entries.items():
                self._db.execute(
                    "UPDATE partitions SET next = ?, clock = ?, recent = ?, bad = bad + ?, late = late + ?"
                    " WHERE partition = ?",
                    (entry.next, entry.clock, json.dumps(entry.recent), entry.bad, entry.late, partition),
                )
                self._db.executemany(
                    "INSERT INTO hours VALUES (?, ?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET messages = messages + excluded.messages",
                    [(hour, partition, first, messages) for hour, (first, messages) in entry.hours.items()],
                )

    def write(self, hour: int, messages: int) -> None:
        """The sink enters that it has written an hour since 1970, made of so many messages."""
        self.write_hours({hour: messages})

    def write_hours(self, messages: Mapping[int, int]) -> None:
        """The sink enters all hours since 1970 that it has written, and of how many messages each is made."""
        with self._transaction():
            self._db.executemany(
                "INSERT INTO written VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET messages = MAX(messages, excluded.messages)",
                messages.items(),
            )

    def written(self, hour: int) -> int:
        """Of how many messages the sink has written an hour since 1970; 0 when it has not."""
        with self._lock:
            row = self._db.execute("SELECT messages FROM written WHERE hour = ?", (hour,)).fetchone()
        return row[0] if row else 0

    def recheck(self, messages: Callable[[int], int], hours: int) -> list[int]:
        """Believes the sink's store rather than its account, before a run begins: a power cut may take from the store.

        Args:
          messages: Of how many messages the store's hour (since 1970) is made.
          hours: How many hours, the newest, are asked about; those before may have expired there.

        Returns:
          The hours of which the store has less than was entered; they are read again.
        """
        with self._transaction():
            rows = self._db.execute(
                "SELECT hour, messages FROM written ORDER BY hour DESC LIMIT ?", (hours,)
            ).fetchall()
            less = [(held, hour) for hour, entered in rows if (held := messages(hour)) < entered]
            self._db.executemany("UPDATE written SET messages = ? WHERE hour = ?", less)
        return [hour for _, hour in less]

    def standing(self) -> Standing:
        """What people want to know of the stream."""
        with self._transaction():
            run, closed = self._db.execute("SELECT run, closed FROM stream").fetchone()
            rows = self._db.execute("SELECT partition, next, clock, bad, late FROM partitions").fetchall()
            (messages,) = self._db.execute("SELECT COALESCE(SUM(messages), 0) FROM hours").fetchone()
            return Standing(
                run,
                closed,
                {partition: offset for partition, offset, *_ in rows},
                {partition: clock for partition, _, clock, *_ in rows},
                messages,
                sum(row[3] for row in rows),
                sum(row[4] for row in rows),
                self._undone(),
            )

    def forget(self, before: int, reach: int = 0) -> int:
        """Forgets hours before one; none that may be read again with the oldest that is not done.

        Args:
          before: Hours since 1970.
          reach: How many hours before its own the windows of an hour need.

        Returns:
          How many were forgotten.
        """
        with self._transaction():
            end = (min((before, *self._undone()[:1])) - reach,)
            (old,) = self._db.execute("SELECT COUNT(DISTINCT hour) FROM hours WHERE hour < ?", end).fetchone()
            for table in ("hours", "written"):
                self._db.execute(f"DELETE FROM {table} WHERE hour < ?", end)
        return int(old)

    def close(self) -> None:
        """Lets go of the file."""
        with self._lock:
            self._db.close()

    def _resume(self, reach: int) -> Resume:
        run, closed = self._db.execute("SELECT run, closed FROM stream").fetchone()
        needed = {hour - back for hour in self._undone() for back in range(reach + 1)}
        starts: dict[int, int] = {}
        if needed:
            rows = self._db.execute("SELECT hour, partition, first FROM hours WHERE hour >= ?", (min(needed),))
            for hour, partition, first in rows:
                if hour in needed:
                    starts[partition] = min(first, starts.get(partition, first))
        partitions = {}
        held = self._db.execute("SELECT partition, next, clock, recent FROM partitions").fetchall()
        for partition, following, clock, recent in held:
            start = min(following, starts.get(partition, following))
            late = self._db.execute("SELECT offset FROM late WHERE partition = ? AND offset >= ?", (partition, start))
            partitions[partition] = Partition(
                start, following, clock, tuple(json.loads(recent)), frozenset(offset for (offset,) in late)
            )
        return Resume(run, partitions, closed)

    def _undone(self) -> tuple[int, ...]:
        return tuple(sorted(hour for (hour,) in self._db.execute(_UNDONE)))

    def _check(self, run: int) -> None:
        (latest,) = self._db.execute("SELECT run FROM stream").fetchone()
        if latest != run:
            raise TerminalError(
                "Another run of the stream has begun since.",
                expected=f"run {run} to be the latest",
                received=f"run {latest}",
                remedy="Nothing: this one ends, and the other goes on where it stopped.",
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise TransientError(
                        f"The stream's accounts, {self.path}, cannot be used.",
                        expected="a file that can be written, not held for long by others",
                        received=str(error),
                        remedy="See that the disk has room and that one stream alone uses the file; then retry.",
                    ) from error
                raise
