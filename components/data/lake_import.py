"""Fills a table of the lake from data outside of it, in bounded memory: whole, or not at all.

Rows are typed, dealt to their local days on disk, ordered by time and key, and written as one new version. Those of a
static table are dealt by a hash of their key instead, so that doubles meet, and each file holds a share of them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from airtight.errors import AirtightError, TerminalError
from airtight.files import scratch_folder
from airtight.home import Home
from components.data.dealt_rows import DealtRows
from components.data.feature_kinds import kind_of
from components.data.lake import Lake, Table, Version
from components.data.sources import ReadReport, Rows, Source, read
from components.data.sources.parsing import time_of, typed
from components.schema import ExampleSchema
from components.tasks import task_of

log = logging.getLogger(__name__)

ROW = "row"
"""The key of a table without one: the row's place in the source, from 0 on."""
_SHARES, _FILE_ROWS = 256, 1 << 17
"""Into how many shares a static table is dealt, and how many rows its files have at least."""
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Imported:
    """What became of the data.

    Args:
      version: The table's version that holds them.
      rows: Rows in it.
      doubled: Rows that were there more than once, and are there once.
      left_out: Rows that could not be read, where the source says `leave_out`.
      examples: Why, of the first ones.
    """

    version: Version
    rows: int
    doubled: int
    left_out: int
    examples: list[str]

    def __str__(self) -> str:
        notes = [f"{self.doubled:,} doubled rows are there once"] if self.doubled else []
        if self.left_out:
            notes.append(f"{self.left_out:,} rows are left out, such as: {self.examples[0]}")
        days = self.version.days
        span = f" of {days[0]} to {days[-1]}" if days else ""
        return (
            f"{self.version.table}: {self.rows:,} row{'s' * (self.rows != 1)}{span}, version {self.version.number}"
            + "".join(f"; {note}" for note in notes)
        )


def table_of(name: str, schema: ExampleSchema, key: tuple[str, ...], computed: tuple[str, ...] = ()) -> Table:
    """The table that has what a schema needs, each column in the type of its kind, numbers as float64.

    Args:
      name: Of the table.
      schema: Of the pipeline's examples.
      key: Columns that are unique together.
      computed: Features and keys that the pipeline's transform makes, so that the table lacks them.

    Raises:
      TerminalError: The schema has no such task, or a feature of no such kind.
    """
    columns = {schema.time: pa.timestamp("us", tz="UTC")} if schema.time else {}
    columns |= {
        column: pa.int64() if column == ROW else pa.string() for column in (*key, *schema.keys) if column != schema.time
    }
    types = {feature.name: kind_of(feature).arrow_type(feature) for feature in schema.features}
    columns |= {column: pa.float64() if kind == pa.float32() else kind for column, kind in types.items()}
    columns |= {label: part.label_type for label, part in task_of(schema).parts.items()}
    if schema.weight:
        columns[schema.weight] = pa.float64()
    kept = {column: kind for column, kind in columns.items() if column not in computed}
    return Table(name, pa.schema(kept), key, schema.time or None)


def fill(lake: Lake, table: Table, source: Source, zone: str, known_at: datetime | None = None) -> Imported:
    """Writes all rows of a source into a table; days that the source has replace those of the lake.

    Args:
      lake: Where to.
      table: Its columns, types, key and time. The column `row` of its key is made, where the source has none.
      source: The data.
      zone: IANA name of the zone whose days are the partitions.
      known_at: When corrections became known; None for rows that were known at their own time.

    Raises:
      TerminalError: The data cannot be read, a value does not fit its type, a column is missing, or a key is there
        twice with different values. The lake is as it was.
      TransientError: The data change meanwhile, or the disk is full.
    """
    report, read_rows = ReadReport(source), 0
    with scratch_folder(lake.path) as folder:
        dealt = DealtRows(folder, table, source)
        for rows in read(source, report):
            made = _typed(rows, table, source, report, read_rows)
            read_rows += rows.batch.num_rows
            if made.num_rows:
                dealt.add(made, _days(made, table, zone) if table.time else _shares(made, table))
        if not dealt.rows:
            raise source.error(
                f"{source.name} has not a single row.",
                expected="rows",
                received="none" if not report.left_out else f"{report.left_out:,} rows, all left out",
                remedy="Name data with rows.",
            )
        if table.time:
            version = lake.write(table.name, _Days(dealt), known_at)
        else:
            version = lake.write_static(table.name, _files(dealt), known_at)
    imported = Imported(version, dealt.rows - dealt.doubled, dealt.doubled, report.left_out, report.examples)
    log.info("%s", imported)
    return imported


def main(fill_lake: Callable[[Path], Any]) -> None:
    """Fills the lake of the current home, as a command, and says what became of the data."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        fill_lake(Home.current().lake)
    except AirtightError as error:
        sys.exit(str(error))


def _typed(rows: Rows, table: Table, source: Source, report: ReadReport, before: int) -> pa.Table:
    """The rows in the table's columns and types, without those that cannot be read."""
    if source.format != "json":
        _check_columns(rows, table, source)
    count = rows.batch.num_rows
    bad = np.zeros(count, bool)
    columns: dict[str, pa.Array] = {}
    for name, kind in zip(table.schema.names, table.schema.types, strict=True):
        if name == table.time:
            columns[name] = time_of(rows, source)
            wrong, origin = pc.is_null(columns[name]), source.time
        elif name == ROW and (ROW not in rows.batch.schema.names or ROW in source.columns.values()):
            columns[name] = pa.array(np.arange(count) + before, kind)
            continue
        else:
            origin = (source.columns.get(name, name),)
            given = rows.column(origin[0])
            columns[name] = typed(given, kind, source, source.separators.get(name, ""))
            wrong = pc.and_(pc.is_null(columns[name]), pc.is_valid(given))
        for index in np.flatnonzero(np.asarray(wrong) & ~bad):
            report.reject(_no_value(rows, int(index), origin, kind, source))
        bad |= np.asarray(wrong)
    made = pa.table([columns[name] for name in table.schema.names], schema=table.schema)
    return made.filter(pa.array(~bad)) if bad.any() else made


def _no_value(rows: Rows, index: int, origin: tuple[str, ...], kind: pa.DataType, source: Source) -> TerminalError:
    values = [rows.column(column)[index].as_py() for column in origin]
    what = {"double": "a number", "int64": "a whole number", "bool": "true or false"}.get(str(kind), f"a {kind}")
    form = ""
    if pa.types.is_timestamp(kind):
        offset = f"without an offset, in the zone {source.time_zone}" if source.time_zone else "with an offset from UTC"
        what, form = "a time", f" in the form {source.time_format or 'ISO 8601'} {offset}"
    return source.error(
        f"What stands in {rows.place(index, ' and '.join(origin))} is not {what}.",
        expected=what + form,
        received=" ".join("nothing" if value is None else repr(value) for value in values),
    )


def _check_columns(rows: Rows, table: Table, source: Source) -> None:
    made = {table.time, ROW}
    wanted = [*source.time, *(source.columns.get(name, name) for name in table.schema.names if name not in made)]
    absent = [name for name in wanted if name not in rows.batch.schema.names]
    if absent:
        raise source.error(
            f"{rows.file} has another header: it lacks columns of the table {table.name}.",
            expected=", ".join(absent),
            received=", ".join(rows.batch.schema.names),
            remedy="Correct the file's header, or Source.columns, which names the columns in the source.",
        )


def _shares(made: pa.Table, table: Table) -> np.ndarray:
    """The share that each row is dealt to [rows], by its key, or by all of it where the key is its place."""
    names = [name for name in (table.key if ROW not in table.key else made.column_names) if name != ROW]
    frame = pd.DataFrame({name: pd.Series(_as_text(made[name])) for name in names})
    hashed: np.ndarray = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return hashed % _SHARES


def _as_text(column: pa.ChunkedArray) -> Any:
    try:
        return column.cast(pa.string()).to_pandas()
    except pa.ArrowNotImplementedError:  # Lists and bytes.
        return [repr(value) for value in column.to_pylist()]


def _days(made: pa.Table, table: Table, zone: str) -> np.ndarray:
    """Days since 1970 of each row [rows], in the pipeline's zone."""
    local = pc.local_timestamp(made[table.time].cast(pa.timestamp("us", tz=zone)))
    return np.asarray(local.cast(pa.date32(), safe=False).cast(pa.int32()))


class _Days(Mapping[date | None, Iterator[pa.Table]]):
    """The parts of each local day, as the lake writes them."""

    def __init__(self, dealt: DealtRows) -> None:
        self._dealt = dealt

    def __len__(self) -> int:
        return len(self._dealt.numbers)

    def __iter__(self) -> Iterator[date]:
        return (_EPOCH + timedelta(days=number) for number in sorted(self._dealt.numbers))

    def __getitem__(self, day: date | None) -> Iterator[pa.Table]:
        if day is None:
            raise KeyError(day)
        return self._dealt.read((day - _EPOCH).days)


def _files(dealt: DealtRows) -> Iterator[Iterator[pa.Table]]:
    """The rows of a static table, some shares in each file. Each is to be read before the next one."""
    numbers = iter(sorted(dealt.numbers))

    def rows_from(first: int) -> Iterator[pa.Table]:
        count = 0
        for number in chain([first], numbers):
            for part in dealt.read(number):
                count += part.num_rows
                yield part
            if count >= _FILE_ROWS:
                return

    for number in numbers:
        yield rows_from(number)
