"""Where the state of learning and its answers are kept, in one transaction."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from airtight.errors import TerminalError, TransientError
from streaming.learning.prequential import Answer, State

_TABLES = (
    "CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY CHECK (one = 1), body BLOB, digest TEXT)",
    "CREATE TABLE IF NOT EXISTS answers (id TEXT PRIMARY KEY, day TEXT, label REAL, sgd REAL, "
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
            self._db.execute(f"SELECT {', '.join(Answer._fields)} FROM answers LIMIT 0")
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
        rows = self._db.execute(f"SELECT {', '.join(Answer._fields)} FROM answers ORDER BY day, id").fetchall()
        columns = list(zip(*rows, strict=True)) or [()] * len(Answer._fields)
        kinds = (object, object, *[np.float64] * (len(Answer._fields) - 2))
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
