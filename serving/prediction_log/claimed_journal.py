"""A journal that its server writes no more, locked by the process that ships it: what is in it, and its end."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path

import pyarrow as pa

from airtight.predictions import model_of
from serving.prediction_log.journal_rows import TEXT, batches, is_torn_message, rows_of, slices

logger = logging.getLogger(__name__)

BROKEN = ".broken"
"""What the name of a journal ends with that holds more than can be read."""


@dataclass(frozen=True)
class Contents:
    """What is in a journal.

    Args:
      schema: The columns that readers see; None without rows.
      rows: How many.
      end: Where the last batch that can be read ends, bytes from the beginning.
    """

    schema: pa.Schema | None
    rows: int
    end: int


@dataclass(frozen=True, eq=False)
class ClaimedJournal:
    """A journal that no server writes, and that this process has locked."""

    path: Path
    file: FileIO

    @property
    def model(self) -> str:
        """Whose answers it holds."""
        return model_of(self.path.parent.parent)

    @cached_property
    def contents(self) -> Contents:
        """What is in it; read once, batch after batch."""
        schemas: list[pa.Schema] = []
        rows = 0
        reading = slices(self.path)
        while True:
            try:
                batch = next(reading)
            except StopIteration as ended:
                schema = pa.unify_schemas(schemas, promote_options="permissive") if schemas else None
                return Contents(schema, rows, ended.value)
            rows += len(batch)
            # Only text may be of one kind here and of another there: tf.Examples become JSON, all else a column.
            texts = [name for name in batch.schema.names if name.startswith(TEXT)] if schemas else batch.schema.names
            schema = rows_of(batch.select(texts)).schema
            if schema not in schemas:
                schemas.append(schema)

    def tables(self) -> Iterator[pa.Table]:
        """Its rows as readers see them, some at a time."""
        for batch in slices(self.path):
            yield rows_of(batch)

    def written_schema(self) -> pa.Schema | None:
        """Its columns as the server wrote them; None without rows: its server was killed before any was whole."""
        batch = next(batches(self.path), None)
        return batch.schema if batch is not None else None

    def finish(self) -> int:
        """Removes the journal, whose rows are where they belong, or keeps it under another name if it holds more.

        Returns:
          1 where it is kept, else 0.
        """
        is_broken = not is_torn_message(self.path, self.contents.end)
        if is_broken:
            kept = self.path.with_name(self.path.name + BROKEN)
            unread = os.fstat(self.file.fileno()).st_size - self.contents.end
            self.path.rename(kept)
            logger.warning("The last %d bytes of a journal of the prediction log cannot be read: %s", unread, kept)
        else:
            self.path.unlink(missing_ok=True)
        self.file.close()
        return int(is_broken)

    def let_go(self) -> None:
        """Leaves it to a later look."""
        self.file.close()


def claim(path: Path) -> ClaimedJournal | None:
    """Locks a journal that no process holds; None where one does, or where it is gone."""
    try:
        file = FileIO(path)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if not path.exists():  # Another shipper was done with it between the two lines above.
        file.close()
        return None
    return ClaimedJournal(path, file)


def report(model: str, *, written: int = 0, too_large: int = 0, broken: int = 0) -> None:
    """Tells the server, on standard output, what became of rows, and how many journals cannot be read whole."""
    line = {"model": model, "written": written, "too_large": too_large, "broken": broken}
    if written or too_large or broken:
        with suppress(OSError):  # The server has gone.
            os.write(1, json.dumps(line).encode() + b"\n")
