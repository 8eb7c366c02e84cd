"""Naming the row of examples on which a model fails: by its place, its keys and its time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from airtight.errors import TerminalError
from components.data import examples as reading
from components.schema import ExampleSchema


class RowFault(TerminalError):
    """A model fails on a row.

    Args:
      row: Its place among those that the model was called with.
    """

    def __init__(self, message: str, row: int, **words: str) -> None:
        super().__init__(message, **words)
        self.row = row


@contextlib.contextmanager
def naming_rows(
    folder: Path, splits: Sequence[str], schema: ExampleSchema, start: int = 0, step: int = 1
) -> Iterator[None]:
    """Names the row of a `RowFault` within.

    Args:
      folder: The artifact's folder.
      splits: Splits that are read one after the other.
      schema: Of the examples.
      start: Place in all of them of the first row that the model was called with.
      step: Every which row from there on it was called with.

    Raises:
      TerminalError: In place of the `RowFault`; the row is named.
    """
    try:
        yield
    except RowFault as fault:
        place = row_in_words(folder, splits, schema, start + step * fault.row)
        raise TerminalError(
            f"{fault.message.rstrip('.')}: it fails on {place}.",
            expected=fault.expected,
            received=fault.received,
            remedy=fault.remedy,
        ) from fault


def row_in_words(folder: Path, splits: Sequence[str], schema: ExampleSchema, number: int) -> str:
    """Which row it is: its place, its keys and its time, as far as the schema has them.

    Args:
      folder: The artifact's folder.
      splits: Splits that are read one after the other.
      schema: Of the examples.
      number: The row's place in all of them, from 0.

    Raises:
      TerminalError: As `read_table`.
      IndexError: There are fewer rows.
    """
    names = list(dict.fromkeys(filter(None, (*schema.keys, schema.time))))
    for split in splits:
        place = number
        for table in reading.batches(folder, split, schema, names or schema.labels):
            if number < table.num_rows:
                words = named(table.slice(number, 1), names)
                return f"row {place} of the split {split}" + (f" ({words})" if words else "")
            number -= table.num_rows
    raise IndexError("there are fewer rows")


def named(row: pa.Table, names: Sequence[str]) -> str:
    """Some values of one row, such as its keys, in words."""
    return ", ".join(f"{name} {row[name][0].as_py()}" for name in names)
