"""What a table holds, in one pass: its columns, keys, times, and what goes along with the label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.sources import ReadReport, Rows, Source, read
from components.data.sources.parsing import STYLES, time_of
from components.scaffold.column_profile import ColumnProfile, ColumnScan, as_numbers
from components.scaffold.distinct import Repeats, hashes
from components.scaffold.forms import Fit, add_days

_PAIRS = 200
"""So many pairs of a value and a label are counted."""
_KEYS_WITH_TIME = 16
"""So many columns are tried as what tells rows of one time apart."""


@dataclass(frozen=True)
class TableProfile:
    """What a table holds.

    Args:
      columns: By name.
      rows: How many.
      repeated: Rows that are there a second time, all columns alike.
      keys: Columns of which no two rows have the same value.
      keys_with_time: Columns of which no two rows of one time have the same value; "" where no two rows have one time.
      correlations: With the label, by column, of numbers.
      same_as_label: Columns each of whose values goes with one class, and each class with one value.
      key_alone: Whether no two rows have the same values of the key that the person names.
      key_with_time: Whether no two rows of one time have.
      no_time: The first row whose time is none in its zone; "" where there is none.
      time: The times by day, where their form is known before; otherwise the column's profile has them.
      unreadable: How many rows are no rows of the table and are left out, and why the first one; "" where none is.
    """

    columns: dict[str, ColumnProfile]
    rows: int
    repeated: int
    keys: tuple[str, ...]
    keys_with_time: tuple[str, ...]
    correlations: dict[str, float]
    same_as_label: tuple[str, ...]
    key_alone: bool
    key_with_time: bool
    no_time: str
    time: Fit
    unreadable: str = ""


def profile(
    source: Source, label: str, time: Sequence[str], drop: Sequence[str] = (), key: Sequence[str] = ()
) -> TableProfile:
    """Reads a table once.

    Args:
      source: The data.
      label: Name of the label's column.
      time: Names of the columns that make the time; () where there is none.
      drop: Columns that are not looked at.
      key: Columns that are said to tell rows apart, perhaps together with the time.

    Raises:
      TerminalError: The data cannot be read, are empty, or lack these columns.
    """
    scan: _Scan | None = None
    report = ReadReport(source)
    for rows in read(source, report):
        scan = scan or _Scan(source, label, time, drop, key)
        scan.add(rows)
    if scan is None:
        raise source.error(
            f"{source.name} has not a single row.", expected="rows", received="none", remedy="Name data with rows."
        )
    left_out = f"{report.left_out:,} rows are left out, such as: {report.examples[0]}" if report.left_out else ""
    return replace(scan.profile(), unreadable=left_out)


class _Scan:
    def __init__(
        self, source: Source, label: str, time: Sequence[str], drop: Sequence[str], key: Sequence[str]
    ) -> None:
        self._source, self._label, self._time, self._drop, self._key = source, label, tuple(time), drop, tuple(key)
        self._columns: dict[str, ColumnScan] = {}
        self._rows = 0
        self._all, self._times = Repeats(exact=True), Repeats()
        self._with_time: dict[str, Repeats] = {}
        self._key_alone, self._key_with_time = Repeats(), Repeats()
        self._moments: dict[str, np.ndarray] = {}
        self._pairs: dict[str, Counter[tuple[str, str]] | None] = {}
        self._by_day = Fit()
        self._no_time = ""

    def add(self, rows: Rows) -> None:
        self._rows += rows.batch.num_rows
        for name in rows.batch.schema.names:
            if name not in self._columns and name not in self._drop:
                self._columns[name] = ColumnScan(name, self._source)
                # Rows before, of a JSON file, had none of it.
                before = self._rows - rows.batch.num_rows
                if before:
                    empty = pa.RecordBatch.from_arrays([pa.nulls(before)], names=[name])
                    self._columns[name].add(Rows(empty, 1, rows.file))
        for column in self._columns.values():
            column.add(rows)
        hashed = {name: hashes(rows.column(name)) for name in self._columns}
        self._all.add(_combined(list(hashed.values())))
        self._add_keys(rows, hashed)
        self._add_label(rows)
        if self._time:
            self._add_times(rows)

    def _add_times(self, rows: Rows) -> None:
        made = time_of(rows, self._source)
        if made.null_count and not self._no_time:
            index = int(np.argmin(np.asarray(pc.is_valid(made))))
            values = " ".join(str(rows.column(name)[index].as_py()) for name in self._time)
            self._no_time = f"{values} in {rows.place(index)}"
        if len(self._time) > 1 or self._source.time_format:
            add_days(self._by_day, made.cast(pa.int64()))

    def _add_keys(self, rows: Rows, hashed: dict[str, np.ndarray]) -> None:
        if self._key:
            self._key_alone.add(_combined([hashed[name] for name in self._key]))
            self._key_with_time.add(_combined([hashed[name] for name in (*self._time, *self._key)]))
        if not self._time:
            return
        of_time = _combined([hashed[name] for name in self._time])
        self._times.add(of_time)
        for name, values in hashed.items():
            kind = rows.column(name).type
            discrete = pa.types.is_string(kind) or pa.types.is_integer(kind)
            if name in (*self._time, self._label) or not discrete:
                continue
            if name in self._with_time or len(self._with_time) < _KEYS_WITH_TIME:
                self._with_time.setdefault(name, Repeats()).add(_combined([of_time, values]))

    def _add_label(self, rows: Rows) -> None:
        label = rows.column(self._label)
        numbers = as_numbers(label, STYLES[0])
        words = label if pa.types.is_string(label.type) else None
        for name in self._columns:
            if name == self._label:
                continue
            column = rows.column(name)
            self._add_moments(name, as_numbers(column, STYLES[0]), numbers)
            if words is not None and pa.types.is_string(column.type) and self._pairs.get(name, True) is not None:
                pairs = self._pairs.setdefault(name, Counter()) or Counter()
                both = pc.binary_join_element_wise(column, words, "\0").drop_null()
                counted = pc.value_counts(both)
                for entry in counted[: _PAIRS + 1]:
                    value, _, of_label = entry["values"].as_py().partition("\0")
                    pairs[value, of_label] += entry["counts"].as_py()
                self._pairs[name] = pairs if len(pairs) <= _PAIRS else None

    def _add_moments(self, name: str, values: np.ndarray, labels: np.ndarray) -> None:
        there = np.isfinite(values) & np.isfinite(labels)
        if there.sum() == 0:
            return
        x, y = values[there], labels[there]
        moments = self._moments.get(name)
        if moments is None:
            # Sums are of differences from the first values, so that no digits are lost.
            moments = self._moments[name] = np.array([x[0], y[0], 0, 0, 0, 0, 0, 0], float)
        # Of numbers whose squares no float64 holds, nothing is said.
        with np.errstate(over="ignore", invalid="ignore"):
            x, y = x - moments[0], y - moments[1]
            moments[2:] += [len(x), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]

    def profile(self) -> TableProfile:
        columns = {name: column.profile() for name, column in self._columns.items()}
        together: tuple[str, ...] = ("",) if self._time and self._times.unique() else ()
        together += tuple(name for name, repeats in self._with_time.items() if repeats.unique())
        return TableProfile(
            columns,
            self._rows,
            self._repeated(),
            tuple(name for name, column in columns.items() if column.unique and not column.missing),
            together if self._time else (),
            {name: _correlation(moments) for name, moments in self._moments.items()},
            tuple(name for name, pairs in self._pairs.items() if pairs and _one_to_one(pairs)),
            bool(self._key) and self._key_alone.unique(),
            bool(self._key) and self._key_with_time.unique(),
            self._no_time,
            self._by_day,
        )

    def _repeated(self) -> int:
        self._all.unique()
        return self._all.repeated


def _combined(hashed: Sequence[np.ndarray]) -> np.ndarray:
    """One hash of several, [rows]."""
    combined = np.zeros(len(hashed[0]), np.uint64)
    for values in hashed:
        combined = (combined * np.uint64(0x9E3779B97F4A7C15)) ^ values
    return combined


def _correlation(moments: np.ndarray) -> float:
    _, _, n, sx, sy, sxx, syy, sxy = moments
    with np.errstate(over="ignore", invalid="ignore"):
        across, alone = n * sxy - sx * sy, (n * sxx - sx * sx) * (n * syy - sy * sy)
        return float(across / np.sqrt(alone)) if alone > 0 else 0.0


def _one_to_one(pairs: Counter[tuple[str, str]]) -> bool:
    values, labels = {value for value, _ in pairs}, {label for _, label in pairs}
    # Where hardly any value comes twice, each has its own label anyway.
    return len(values) == len(labels) == len(pairs) > 1 and pairs.total() >= 2 * len(pairs)
