"""Counting sorted examples before they are written: one pass over the narrow columns, a few rows at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from components.data.example_frame import KEPT, SPAN, WRONG, order_of
from components.schema import ExampleSchema

SHOWN = 5
"""Rows that an error names."""


@dataclass
class Survey:
    """What sorted rows are.

    Args:
      rows: Rows of each span.
      kept: Of them those that are examples.
      first: Time of each span's first example.
      last: Of its last.
      wrong: Rows with a wrong value, by column.
      wrong_rows: Of each column the keys of the first of them.
      doubled: Rows beyond the first of the same time and keys.
      doubled_rows: The keys of the first of them.
    """

    rows: Counter[int] = field(default_factory=Counter)
    kept: Counter[int] = field(default_factory=Counter)
    first: dict[int, datetime] = field(default_factory=dict)
    last: dict[int, datetime] = field(default_factory=dict)
    wrong: Counter[str] = field(default_factory=Counter)
    wrong_rows: dict[str, list[str]] = field(default_factory=dict)
    doubled: int = 0
    doubled_rows: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All rows."""
        return sum(self.rows.values())


def narrow_columns(schema: ExampleSchema) -> list[str]:
    """The columns that `survey` reads."""
    return list(dict.fromkeys((*order_of(schema), *schema.keys, SPAN, KEPT, WRONG)))


def survey(tables: Iterable[pa.Table], schema: ExampleSchema) -> Survey:
    """Counts rows.

    Args:
      tables: All rows in the order of `order_of`, with `narrow_columns`.
      schema: Of the examples.
    """
    seen, order = Survey(), order_of(schema)
    before: pa.Table | None = None
    for table in tables:
        if not table.num_rows:
            continue
        _count(seen, table, schema)
        keys = table.select(list(dict.fromkeys((*order, *schema.keys))))
        together = pa.concat_tables([before, keys]) if before is not None else keys
        equal: pa.ChunkedArray | None = None
        for name in order:
            same = pc.equal(together[name].slice(1), together[name].slice(0, together.num_rows - 1))
            equal = same if equal is None else pc.and_(equal, same)
        if count := pc.sum(equal).as_py() or 0:
            seen.doubled += count
            seen.doubled_rows += _names(together.slice(1).filter(equal), schema, SHOWN - len(seen.doubled_rows))
        before = keys.slice(table.num_rows - 1)
    return seen


def _count(seen: Survey, table: pa.Table, schema: ExampleSchema) -> None:
    spans = table.group_by(SPAN).aggregate([([], "count_all"), (KEPT, "sum")])
    for row in spans.to_pylist():
        seen.rows[row[SPAN]] += row["count_all"]
        seen.kept[row[SPAN]] += row[f"{KEPT}_sum"] or 0
    if schema.time:
        kept = table.filter(pc.field(KEPT)).group_by(SPAN).aggregate([(schema.time, "min"), (schema.time, "max")])
        for row in kept.to_pylist():
            seen.first.setdefault(row[SPAN], row[f"{schema.time}_min"])
            seen.last[row[SPAN]] = row[f"{schema.time}_max"]
    flawed = table.filter(pc.greater(pc.list_value_length(table[WRONG]), 0))
    if not flawed.num_rows:
        return
    names = pc.list_flatten(flawed[WRONG])
    seen.wrong.update({row["values"]: row["counts"] for row in pc.value_counts(names).to_pylist()})
    parents = flawed.take(pc.list_parent_indices(flawed[WRONG]))
    for name in pc.unique(names).to_pylist():
        shown = seen.wrong_rows.setdefault(name, [])
        shown += _names(parents.filter(pc.equal(names, name)), schema, SHOWN - len(shown))


def _names(rows: pa.Table, schema: ExampleSchema, limit: int) -> list[str]:
    keys = rows.select(list(schema.keys)).slice(0, max(0, limit)).to_pylist()
    return [str(tuple(row[key] for key in schema.keys)) for row in keys]
