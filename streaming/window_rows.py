"""Rows that windows make for people: one for each window and key, in one SQLite file, the fullest one kept."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam

from streaming.accounts import Accounts

HOUR_S = 3600
DAY_S = 24 * HOUR_S
KEEP_DAYS = 400
"""Windows that are so much older than a day that is told of are forgotten."""
BUSY_S = 30.0
"""A writer waits so long for another one."""
_TABLE = """
CREATE TABLE IF NOT EXISTS windows (
  name TEXT, key TEXT, start INTEGER, seconds INTEGER NOT NULL, messages INTEGER NOT NULL, told TEXT NOT NULL,
  PRIMARY KEY (name, key, start))
"""


@dataclass(frozen=True)
class WindowRow:
    """What a window says of a key.

    Args:
      name: Of the windows.
      key: What it is about.
      start: Its beginning, seconds since 1970.
      seconds: Its length.
      messages: Of how many messages it is made.
      told: Values by name; plain JSON.
    """

    name: str
    key: str
    start: int
    seconds: int
    messages: int
    told: dict[str, Any]


class WindowRows:
    """The rows of windows; writing one again changes nothing.

    Args:
      path: The SQLite file, made where it is not there.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(_TABLE)

    def put(self, row: WindowRow) -> bool:
        """Writes a row.

        Returns:
          Whether it was taken; not when the one that is there is made of more messages.
        """
        told = json.dumps(row.told)
        cursor = self._db.execute(
            "INSERT INTO windows VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " messages = excluded.messages, told = excluded.told WHERE excluded.messages >= messages",
            (row.name, row.key, row.start, row.seconds, row.messages, told),
        )
        return cursor.rowcount > 0

    def rows(self, name: str, start: int = 0) -> list[WindowRow]:
        """The windows of a name that begin at an instant or later, seconds since 1970, in their order."""
        found = self._db.execute(
            "SELECT name, key, start, seconds, messages, told FROM windows WHERE name = ? AND start >= ?"
            " ORDER BY start, key",
            (name, start),
        )
        return [
            WindowRow(of, key, begin, seconds, messages, json.loads(told))
            for of, key, begin, seconds, messages, told in found
        ]

    def messages(self, name: str, start: int) -> int:
        """Of how many messages the windows of a name and beginning are made, all keys together."""
        found = self._db.execute("SELECT SUM(messages) FROM windows WHERE name = ? AND start = ?", (name, start))
        return found.fetchone()[0] or 0

    def forget(self, before: int) -> None:
        """Removes windows that began before an instant, seconds since 1970."""
        self._db.execute("DELETE FROM windows WHERE start < ?", (before,))

    def close(self) -> None:
        """Lets go of the file."""
        self._db.close()


class WriteWindowRows(beam.PTransform):
    """`WindowRow` -> whether it was taken.

    A window that covers a whole hour tells the stream's accounts what is written of it. Windows that begin between two
    hours need the one before (`Source.reach`). The first hour of a day has those forgotten that are `keep_days` older.

    Args:
      path: The SQLite file.
      accounts: The accounts' file, or None.
      keep_days: How long windows are kept, in days of event time.
    """

    def __init__(self, path: Path, accounts: Path | None, keep_days: int = KEEP_DAYS) -> None:
        super().__init__()
        self._write = _Write(path, accounts, keep_days * DAY_S)

    def expand(self, rows: beam.PCollection[WindowRow]) -> beam.PCollection[bool]:
        """See the class."""
        return rows | "write" >> beam.ParDo(self._write).with_output_types(bool)


class _Write(beam.DoFn):
    def __init__(self, path: Path, accounts: Path | None, keep_s: int) -> None:
        self._paths, self._keep = (path, accounts), keep_s

    def setup(self) -> None:
        path, accounts = self._paths
        self._rows, self._accounts = WindowRows(path), None if accounts is None else Accounts(accounts)

    def process(self, row: WindowRow) -> Iterator[bool]:
        yield self._rows.put(row)
        if self._accounts is not None and row.seconds == HOUR_S and row.start % HOUR_S == 0:
            self._accounts.write(row.start // HOUR_S, self._rows.messages(row.name, row.start))
        if row.start % DAY_S == 0:
            self._rows.forget(row.start - self._keep)

    def teardown(self) -> None:
        self._rows.close()
        if self._accounts is not None:
            self._accounts.close()
