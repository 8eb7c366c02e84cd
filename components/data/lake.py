"""The data lake: tables of immutable, content-addressed Parquet files, and a log of versions for each table.

    orders/date=2013-06-01/<sha256>.parquet     one local day of a table that grows in time
    shops/<sha256>.parquet                      a static table, in one file or several
    orders/_versions/000001.json                the whole list of live files as of version 1

A data file never changes and its name is its digest, so equal content is the same file, and a reader that holds a
version can read on while writers add others. A version's file appears last and whole; its number goes to one writer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airtight.errors import TerminalError
from airtight.files import digest_of_file, full_disk_in_words, new_file, scratch_folder
from airtight.interval import Interval
from components.data.pieces import write_parquet

_TYPES = (
    (pa.string(), "string"),
    (pa.bool_(), "boolean"),
    (pa.int32(), "int"),
    (pa.int64(), "bigint"),
    (pa.float32(), "float"),
    (pa.float64(), "double"),
    (pa.date32(), "date"),
    (pa.timestamp("us", tz="UTC"), "timestamp"),
    (pa.binary(), "binary"),
    (pa.list_(pa.string()), "array<string>"),
    (pa.list_(pa.float32()), "array<float>"),
)
SPARK_TYPES = {str(arrow): spark for arrow, spark in _TYPES}
"""The types that a column of the lake may have, as Arrow names them, and as Spark does."""
ARROW_TYPES = {str(arrow): arrow for arrow, _ in _TYPES}
"""The same types, by Arrow's names of them."""


FileRows: TypeAlias = pa.Table | Iterable[pa.Table]
"""Rows of a file: a table, or one or more parts in order, of which no more than a row group is held."""


@dataclass(frozen=True)
class Table:
    """A pipeline's declaration of one table that it reads.

    Args:
      name: Folder of the table in the lake.
      schema: The columns that the pipeline relies on; files may hold more. Types are those of `SPARK_TYPES`.
      key: Columns that are unique together.
      time: Column of the instant (UTC) by which rows belong to an interval; None for a static table. A table with a
        time has one partition for each local day of that instant.
      required: Whether an interval without a single row of it is a fault.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    time: str | None = None
    required: bool = True

    def __post_init__(self) -> None:
        unknown = [f"{field.name} {field.type}" for field in self.schema if str(field.type) not in SPARK_TYPES]
        absent = [name for name in (*self.key, self.time) if name and name not in self.schema.names]
        if unknown or absent:
            raise TerminalError(
                f"The declaration of the table {self.name} does not hold together.",
                expected=f"types among {', '.join(SPARK_TYPES)}; key and time among the columns",
                received=[*unknown, *(f"no column {name}" for name in absent)],
                remedy="Correct the declaration.",
            )


@dataclass(frozen=True)
class File:
    """One live file of a version.

    Args:
      path: Relative to the lake, with "/".
      day: Local day of its rows, ISO 8601; None in a static table.
      rows: How many rows it holds.
      bytes: Its size.
      sha256: Digest of its bytes, hexadecimal.
    """

    path: str
    day: str | None
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Version:
    """What a table consists of at one version.

    Args:
      table: Name of the table.
      number: 1, 2, 3 ...
      known_at: When its content became known, ISO 8601 with offset, as the writer says; None when it was never
        corrected: each row was known at its own time.
      files: Every live file, by day.
    """

    table: str
    number: int
    known_at: str | None
    files: tuple[File, ...]

    @property
    def rows(self) -> int:
        """Rows of all its files."""
        return sum(file.rows for file in self.files)

    @property
    def days(self) -> list[str]:
        """The local days that it holds, in order; none in a static table."""
        return [file.day for file in self.files if file.day]


class Lake:
    """A folder of tables.

    Args:
      path: The lake's folder; it is made by the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, table: str, days: Mapping[date | None, FileRows], known_at: datetime | None = None) -> Version:
        """Replaces some days of a table, and keeps the others: a new version, or the present one if nothing differs.

        Args:
          table: Name of the table.
          days: The whole new content of each day, or of None in a static table. A day without rows is dropped.
          known_at: When this content became known, if it corrects what was there; never earlier than the version
            before it. None takes over what the version before says.

        Returns:
          The version that holds the content.

        Raises:
          TerminalError: `known_at` goes back in time, or has no time zone.
          TransientError: The disk is full.
        """
        written = {file.day: file for file in (self._store(table, day, rows) for day, rows in days.items())}

        def replaced(present: Version) -> list[File]:
            return list(({file.day: file for file in present.files} | written).values())

        return self._append(table, replaced, known_at)

    def write_static(self, table: str, pieces: Iterable[FileRows], known_at: datetime | None = None) -> Version:
        """Replaces the whole of a static table by pieces, each of which becomes a file.

        Args:
          table: Name of the table.
          pieces: The whole new content.
          known_at: As for `write`.

        Returns:
          The version that holds the content.

        Raises:
          TerminalError: `known_at` goes back in time, or has no time zone.
          TransientError: The disk is full.
        """
        written = [self._store(table, None, rows) for rows in pieces]
        return self._append(table, lambda present: written, known_at)

    def _append(self, table: str, live: Callable[[Version], list[File]], known_at: datetime | None) -> Version:
        """Adds a version of the files that are live after the present one, unless nothing differs."""
        while True:
            present = self.snapshot(table) if self.numbers(table) else Version(table, 0, None, ())
            files = tuple(sorted((f for f in live(present) if f.rows), key=lambda f: f.day or ""))
            if files == present.files and present.number:
                return present
            version = Version(table, present.number + 1, _known_at(present, known_at), files)
            try:
                with new_file(self._log(table) / f"{version.number:06d}.json", exclusive=True) as temporary:
                    temporary.write_text(json.dumps(asdict(version), indent=0), encoding="utf-8")
            except FileExistsError:
                continue  # Another writer took this number: its days are kept, ours go on top.
            return version

    def numbers(self, table: str) -> list[int]:
        """The versions of a table, ascending; empty when there is no such table."""
        return sorted(int(file.stem) for file in self._log(table).glob("[0-9]*.json"))

    def snapshot(self, table: str, number: int | None = None) -> Version:
        """Reads one version.

        Args:
          table: Name of the table.
          number: The version; None for the newest.

        Raises:
          TerminalError: No such table or version.
        """
        numbers = self.numbers(table)
        if not numbers or number not in (None, *numbers):
            held = sorted(log.parent.name for log in self.path.glob("*/_versions"))
            raise TerminalError(
                f"The lake has no table {table}." if not numbers else f"The table {table} has no version {number}.",
                expected=f"one of {', '.join(held) or 'no tables at all'}" if not numbers else f"one of {numbers}",
                received=f"{table} in the lake {self.path}",
                remedy="Build the lake first, or correct the name of the lake, the table or the version.",
            )
        fields = json.loads((self._log(table) / f"{number or numbers[-1]:06d}.json").read_text(encoding="utf-8"))
        return Version(**{**fields, "files": tuple(File(**file) for file in fields["files"])})

    def snapshot_as_of(self, table: str, instant: datetime) -> Version:
        """Reads the newest version that was known at an instant.

        Raises:
          TerminalError: No such table, or nothing of it was known then.
        """
        for number in reversed(self.numbers(table)):
            version = self.snapshot(table, number)
            if version.known_at is None or datetime.fromisoformat(version.known_at) <= instant:
                return version
        first = self.snapshot(table, 1)
        raise TerminalError(
            f"Nothing of the table {table} was known at {instant.isoformat()}.",
            expected=f"an instant from {first.known_at} on",
            received=instant.isoformat(),
            remedy="Choose the lake as it is now, or a later interval.",
        )

    def verify(self, declared: Table, file: File, zone: str) -> None:
        """Checks that a file is what its version says, and has the declared columns and rows of its day alone.

        A row of another day, or of no time, is in no part of a run: it would be lost without a word.

        Args:
          declared: The pipeline's declaration of the table.
          file: The file, from a version; it is read and digested whole.
          zone: IANA name of the zone whose days are the partitions.

        Raises:
          TerminalError: It is absent, differs, is no Parquet, lacks a column, has one of another type, or such rows.
        """
        path = self.path / file.path
        if not path.is_file():
            raise self._damaged(file, "is missing", f"{file.bytes} bytes", "no such file")
        if path.stat().st_size != file.bytes:
            raise self._damaged(file, "is corrupt", f"{file.bytes} bytes", f"{path.stat().st_size} bytes")
        if (digest := digest_of_file(path)) != file.sha256:
            raise self._damaged(file, "is corrupt", f"sha256 {file.sha256}", f"sha256 {digest}")
        try:
            with pq.ParquetFile(path) as opened:
                _same_columns(declared, opened.schema_arrow, path)
                times = opened.read([declared.time])[declared.time] if declared.time and file.day else None
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(file, "is corrupt", "a Parquet file", str(error)) from error
        if times is not None:
            self._of_its_day(declared, file, times, zone)

    def _of_its_day(self, declared: Table, file: File, times: pa.ChunkedArray, zone: str) -> None:
        span, (first, last) = Interval.parse(str(file.day), zone), pc.min_max(times).as_py().values()
        if times.null_count or not span.start <= first <= last < span.end:
            raise self._damaged(
                file,
                "has rows of another day, or of none",
                f"{declared.time} of every row within {span}",
                f"{times.null_count} rows without it, the others from {first} to {last}",
            )

    def _log(self, table: str) -> Path:
        return self.path / table / "_versions"

    def _store(self, table: str, day: date | None, rows: FileRows) -> File:
        """Writes one data file, unless the same content is there already."""
        parts = iter([rows] if isinstance(rows, pa.Table) else rows)
        first = next(parts).replace_schema_metadata(None)
        following = (part.replace_schema_metadata(None) for part in parts)
        with scratch_folder(self.path) as scratch:
            # No writer's metadata, fixed encodings, row groups by rows and bytes: the same rows are the same bytes.
            written = scratch / "rows.parquet"
            write_parquet(written, chain([first], following), first.schema)
            digest, label = digest_of_file(written), day.isoformat() if day else None
            folder, count = f"{table}/date={label}" if label else table, pq.read_metadata(written).num_rows
            file = File(f"{folder}/{digest}.parquet", label, count, written.stat().st_size, digest)
            path = self.path / file.path
            if count and not (path.is_file() and digest_of_file(path) == digest):
                with full_disk_in_words(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(written, path)
        return file

    def _damaged(self, file: File, what: str, expected: str, received: str) -> TerminalError:
        day = f" of {file.day}" if file.day else ""
        return TerminalError(
            f"The lake's file{day}, {file.path}, {what}.",
            expected=expected,
            received=received,
            remedy=f"Write that day again from its source (the lake is {self.path}); files of the lake never change.",
        )


def _known_at(present: Version, known_at: datetime | None) -> str | None:
    """What the next version says; time does not go back, so that "as it was then" is one prefix of the log."""
    if known_at is None:
        return present.known_at
    before = present.known_at and datetime.fromisoformat(present.known_at)
    if known_at.tzinfo is None or (before and known_at < before):
        raise TerminalError(
            f"A new version of {present.table} must say when it became known, in order.",
            expected=f"an instant with its offset from UTC, not before {before}" if before else "an offset from UTC",
            received=known_at.isoformat(),
            remedy="Write the corrections in the order in which they became known.",
        )
    return known_at.isoformat()


def _same_columns(declared: Table, schema: pa.Schema, path: Path) -> None:
    missing = [field.name for field in declared.schema if field.name not in schema.names]
    changed = [
        f"{field.name} is {schema.field(field.name).type}, not {field.type}"
        for field in declared.schema
        if field.name in schema.names and schema.field(field.name).type != field.type
    ]
    if missing or changed:
        raise TerminalError(
            f"A file of {declared.name} has "
            + " and ".join(
                ([f"no column {', '.join(missing)}"] if missing else [])
                + (["columns of another type"] if changed else [])
            )
            + f": {path}.",
            expected=", ".join(f"{f.name} {f.type}" for f in declared.schema if f.name in missing)
            or "the declared types",
            received=changed or f"the columns {', '.join(schema.names)}",
            remedy="Correct the source and write that day again, or change the pipeline's declaration of the table.",
        )
