"""Rows dealt to days or shares on disk, and read back in order: a day may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airtight.files import full_disk_in_words
from components.data.lake import Table
from components.data.pieces import PIECE_BYTES
from components.data.sources import Source

BUFFER = 128 << 20
"""Bytes of rows that are held until they go to disk."""
PIECE = 8192
"""Rows that are read back together, at most."""


class DealtRows:
    """Rows by the number of a day or share, on disk but for the last ones; read, they are in order and checked.

    Args:
      folder: Where to, an empty one.
      table: Whose columns they have; its time and key are their order.
      source: Where they come from, for errors.
    """

    def __init__(self, folder: Path, table: Table, source: Source) -> None:
        self._folder, self._table, self._source = folder, table, source
        self._order = list(dict.fromkeys([name for name in (table.time, *table.key) if name]))
        self._held: dict[int, list[pa.Table]] = {}
        self._bytes = self._flushes = 0
        self.numbers: set[int] = set()
        self.rows = self.doubled = 0

    def add(self, rows: pa.Table, numbers: np.ndarray) -> None:
        """Takes rows, each with its number [rows]."""
        order = np.argsort(numbers, kind="stable")
        dealt = numbers[order]
        first = np.flatnonzero(np.r_[True, dealt[1:] != dealt[:-1]])
        ordered = rows if (order[1:] > order[:-1]).all() else rows.take(pa.array(order))
        for start, end in zip(first, [*first[1:], len(dealt)], strict=True):
            number = int(dealt[start])
            self._held.setdefault(number, []).append(ordered.slice(start, end - start))
            self.numbers.add(number)
        self.rows += rows.num_rows
        self._bytes += rows.nbytes
        if self._bytes > BUFFER:
            self._flush()

    def _flush(self) -> None:
        for number, parts in self._held.items():
            path = self._folder / str(number) / f"{self._flushes:06d}.arrow"
            with full_disk_in_words(path):
                path.parent.mkdir(exist_ok=True)
                with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, self._table.schema) as writer:
                    writer.write_table(_joined(parts))
        self._held, self._bytes = {}, 0
        self._flushes += 1

    def read(self, number: int) -> Iterator[pa.Table]:
        """The rows of a number, ordered by time and key, each of them once, some at a time.

        In memory are the places of all rows in their order; the rows themselves are mapped.

        Raises:
          TerminalError: Rows of one key differ.
        """
        files = sorted((self._folder / str(number)).glob("*.arrow"))
        parts = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in files]
        parts += [_joined(self._held[number])] if number in self._held else []
        keys = pa.concat_tables([part.select(self._order) for part in parts])
        order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in self._order])
        places = order.to_numpy().astype(np.int64)
        size = sum(part.nbytes for part in parts)
        rows = max(1, min(PIECE, len(places) * PIECE_BYTES // max(1, size)))
        starts = np.cumsum([0, *(part.num_rows for part in parts)])
        before: pa.Table | None = None
        for first in range(0, len(places), rows):
            piece = _gathered(parts, starts, places[first : first + rows])
            yield self._unique(piece, before)
            before = piece.take([piece.num_rows - 1])  # A copy: a slice would keep the whole piece.

    def _unique(self, rows: pa.Table, before: pa.Table | None) -> pa.Table:
        """Rows that are there more than once become one; other rows of one key are a fault.

        Args:
          rows: In order.
          before: The row before them; None where there is none.
        """
        joined = pa.concat_tables([before, rows]) if before is not None else rows
        here, there = joined.slice(1), joined.slice(0, max(0, joined.num_rows - 1))
        doubled = np.ones(here.num_rows, bool)
        for name in self._order:
            doubled &= _same(here[name], there[name])
        if doubled.any():
            self._check_equal(*(side.filter(pa.array(doubled)) for side in (there, here)))
        self.doubled += int(doubled.sum())
        kept = ~doubled if before is not None else np.r_[True, ~doubled]
        return rows if kept.all() else rows.filter(pa.array(kept))

    def _check_equal(self, rows: pa.Table, others: pa.Table) -> None:
        same = {name: _same(rows[name], others[name]) for name in rows.column_names}
        if (equal := np.logical_and.reduce([*same.values()])).all():
            return
        place = int(np.argmin(equal))
        row, other = (side.slice(place, 1).to_pylist()[0] for side in (rows, others))
        unit = ", ".join(self._table.key) or self._table.time
        raise self._source.error(
            f"Several rows have the key {', '.join(f'{name} {row[name]}' for name in self._order)}.",
            expected=f"one row for each {unit}, or rows that are all equal",
            received=[f"{name} {row[name]} and {other[name]}" for name in row if not same[name][place]],
            remedy="Correct the data, or name columns that tell the rows apart as the table's key.",
        )


def _same(here: pa.ChunkedArray, there: pa.ChunkedArray) -> np.ndarray:
    """Whether values are equal, both missing or both NaN, bool [rows]."""
    if pa.types.is_list(here.type):
        same = _same(pc.list_value_length(here), pc.list_value_length(there))
        places = np.flatnonzero(same)
        ours, theirs = (side.take(pa.array(places)).combine_chunks() for side in (here, there))
        items = _same(pc.list_flatten(ours), pc.list_flatten(theirs))
        same[places[pc.list_parent_indices(ours).to_numpy()[~items]]] = False
        return same
    same = pc.or_(pc.equal(here, there).fill_null(False), pc.and_(pc.is_null(here), pc.is_null(there)))
    if pa.types.is_floating(here.type):
        same = pc.or_(same, pc.and_(pc.is_nan(here), pc.is_nan(there)).fill_null(False))
    return np.array(same)


def _joined(parts: list[pa.Table]) -> pa.Table:
    """Rows as one chunk of each column, which single rows are taken from without another copy."""
    return pa.concat_tables(parts).combine_chunks()


def _gathered(parts: list[pa.Table], starts: np.ndarray, places: np.ndarray) -> pa.Table:
    """The rows at some places of parts that lie one after the other from `starts` on."""
    of = np.searchsorted(starts, places, side="right") - 1
    by_part = np.argsort(of, kind="stable")
    taken = [parts[part].take(pa.array(places[of == part] - starts[part])) for part in np.unique(of)]
    back = np.empty(len(places), np.int64)
    back[by_part] = np.arange(len(places))
    return pa.concat_tables(taken).take(pa.array(back))
