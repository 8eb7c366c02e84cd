"""Where the rows of a table come from, and how they are read: in pieces of bounded memory, errors by row and column."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airtight.errors import TerminalError
from airtight.home import ROOT
from airtight.parameters import check_choice

MISSING = ("", "NA", "N/A", "NULL", "null", "NaN", "nan")
"""Text that stands for a missing value, where a source names none."""
ENVIRONMENT = "env:"
LENIENT = "leave_out"
"""`Source.unreadable` that leaves rows out and counts them."""
LEAVE_OUT = 'have such rows left out and counted: Source(..., unreadable="leave_out"), make new UNREADABLE=leave_out.'
"""What to do about rows that cannot be read."""
MAX_EXAMPLES = 5
_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
}

_TEXTS = (pa.types.is_large_string, pa.types.is_string_view, pa.types.is_dictionary)

Format = Literal["csv", "parquet", "json", "sql"]


@dataclass(frozen=True)
class Source:
    """The data of one table outside of the lake.

    Args:
      data: A file (CSV, Parquet, JSON lines; `.gz` for compressed text) or a folder of such files, relative to the
        checkout or absolute; or a database's SQLAlchemy URL; or `env:NAME`, the URL in that environment variable.
      table: The database's table, `schema.table` where it is not in the default one; "" for files.
      columns: Names in the source, by the lake's names, where they differ.
      time: The columns that make the time: one, a date and an hour, or year, month, day and so on.
      time_format: As strptime takes it, or `epoch_s`, `epoch_ms`, `epoch_us`; "" for ISO 8601.
      time_zone: IANA name of the zone of times without an offset; "" where every time has its offset.
      encoding: Of text files.
      delimiter: Between the values of a CSV file.
      header: Names of the columns of a CSV file whose first line names none.
      decimal: The decimal point of numbers that are text.
      thousands: What separates their thousands; "" for nothing.
      missing: Text that stands for a missing value.
      separators: What separates several categories in one text, by the lake's column.
      unreadable: What becomes of a row that cannot be read: `refuse` fails, `leave_out` counts and reports it.
    """

    data: str
    table: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    time: tuple[str, ...] = ()
    time_format: str = ""
    time_zone: str = "UTC"
    encoding: str = "utf-8"
    delimiter: str = ","
    header: tuple[str, ...] = ()
    decimal: str = "."
    thousands: str = ""
    missing: tuple[str, ...] = MISSING
    separators: dict[str, str] = field(default_factory=dict)
    unreadable: str = "refuse"

    def __post_init__(self) -> None:
        check_choice("unreadable", self.unreadable, ("refuse", LENIENT))

    @property
    def lenient(self) -> bool:
        """Whether rows that cannot be read are left out and counted."""
        return self.unreadable == LENIENT

    @property
    def url(self) -> str:
        """The database's URL; "" for files.

        Raises:
          TerminalError: It is in an environment variable that is not set.
        """
        if not self.data.startswith(ENVIRONMENT):
            return self.data if "://" in self.data else ""
        name = self.data.removeprefix(ENVIRONMENT)
        if not (url := os.environ.get(name)):
            raise TerminalError(
                "The database's URL is not set.",
                expected=f"a SQLAlchemy URL in the environment variable {name}",
                received="no such variable",
                remedy=f"Set it: export {name}=postgresql://user:password@host/database.",
            )
        return url

    @property
    def format(self) -> Format:
        """Which reader reads it.

        Raises:
          TerminalError: Its name tells no format.
        """
        if self.url:
            return "sql"
        formats = {format_of(path) for path in self.files()}
        if len(formats) > 1:
            raise TerminalError(
                "The folder holds files of several formats.",
                expected="files of one format",
                received=formats,
                remedy="Name one of the files, or move the others away.",
            )
        return formats.pop()

    def files(self) -> list[Path]:
        """The files, in the order of their names.

        Raises:
          TerminalError: There is no such file, or nothing in the folder.
        """
        path = ROOT / Path(self.data).expanduser()
        if path.is_dir():
            names = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith((".", "_")))
        else:
            names = [path] if path.is_file() else []
        if not names:
            raise TerminalError(
                "There are no such data.",
                expected="a file, a folder with files, or a database's URL",
                received=self.data,
                remedy="Correct the path; a relative one begins at the checkout.",
            )
        return names

    def error(self, message: str, *, expected: str, received: object, remedy: str = "") -> TerminalError:
        """A fault of these data, with what to do unless the caller knows better."""
        remedy = remedy or f"Correct the data, or {LEAVE_OUT}"
        return TerminalError(message, expected=expected, received=received, remedy=remedy)

    @property
    def name(self) -> str:
        """What people call it: the file or the table."""
        return self.table or Path(self.data).name


@dataclass(frozen=True)
class Rows:
    """Some rows of a source, in its own columns.

    Args:
      batch: The rows; a CSV file's values are strings.
      first: The place of the first one, as people count: a CSV file's header is row 1.
      file: Name of the file, or of the table.
      places: The place of each, [rows], where rows between them may have been left out.
    """

    batch: pa.RecordBatch
    first: int
    file: str
    places: np.ndarray | None = None

    def column(self, name: str) -> pa.Array:
        """A column: text is `string`, NaN is null, and so is all of it where no row of these has it, as in JSON."""
        if name not in self.batch.schema.names:
            return pa.nulls(self.batch.num_rows)
        column = self.batch.column(name)
        if pa.types.is_floating(column.type):
            return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        return column.cast(pa.string()) if any(check(column.type) for check in _TEXTS) else column

    def place(self, index: int, column: str = "") -> str:
        """One row, or one value, in words."""
        row = self.first + index if self.places is None else self.places[index]
        return f"row {row}{f', column {column}' if column else ''} of {self.file}"


@dataclass
class ReadReport:
    """What was left out while reading.

    Args:
      source: The data.
      left_out: How many rows.
      examples: Why, of the first ones.
    """

    source: Source
    left_out: int = 0
    examples: list[str] = field(default_factory=list)

    def reject(self, error: TerminalError, rows: int = 1) -> None:
        """Leaves rows out, or raises the fault, as the source says."""
        if not self.source.lenient:
            raise error
        self.left_out += rows
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f"{error.message} {error.received}")


def format_of(path: Path) -> Format:
    """The format of a file by its name.

    Raises:
      TerminalError: It has another ending.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in _FORMATS:
        raise TerminalError(
            "The file's name does not say its format.",
            expected=f"an ending among {' '.join(_FORMATS)}",
            received=path.name,
            remedy="Rename the file.",
        )
    return _FORMATS[suffix]  # type: ignore[return-value]


def read(source: Source, report: ReadReport | None = None) -> Iterator[Rows]:
    """Reads a source once, in pieces of some megabytes.

    Args:
      source: What to read.
      report: Counts the rows that cannot be read.

    Yields:
      Pieces, in the source's order.

    Raises:
      TerminalError: The data cannot be read; row and column are named.
      TransientError: The database does not answer, or a file changes while it is read.
    """
    from components.data.sources import csv_files, json_lines, parquet_files, sql_tables

    report = report or ReadReport(source)
    readers = {
        "csv": csv_files.read,
        "json": json_lines.read,
        "parquet": parquet_files.read,
        "sql": sql_tables.read,
    }
    yield from readers[source.format](source, report)
