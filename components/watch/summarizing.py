"""A split's rows as a `DaySummary`: in this process, or of many rows by Spark, to the same bytes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airtight.home import ROOT
from components.data import examples as reading
from components.data.spark import session
from components.measures.profile import counted
from components.schema import ExampleSchema
from components.watch.day_summary import Categories, DaySummary
from components.watch.source_sums import MOST_SOURCES

MANY_VALUES = 300_000_000
"""Rows times features from which on Spark counts them, where they are Parquet. Of numbers and categories this process
counts as many in half a minute of CPU time, sums of sources in as much again, and some 300 MiB."""
_JSON = "summary"
_JOINED_ROWS, _JOINED_BYTES = 1 << 16, 1 << 25
_Batches = Iterator[pa.RecordBatch]


def summary_of(
    folder: Path, split: str, schema: ExampleSchema, day: str, many_values: int = MANY_VALUES, source: str = ""
) -> DaySummary:
    """Counts a split.

    Args:
      folder: Of the `Examples` artifact.
      split: Name of the split.
      schema: Of the examples.
      day: ISO 8601.
      many_values: From so many rows times features on Spark counts.
      source: Category feature that says which source a row comes from; "" compares no sources.

    Raises:
      TerminalError: The split is not there, or a column is missing or of another type.
    """
    columns = [*schema.names, *schema.labels]
    files = reading.files_of(folder, split)
    sources = largest(folder, split, schema, source) if source else ()
    is_parquet = all(file.suffix == reading.PARQUET_SUFFIX for file in files)
    if not is_parquet or sum(pq.read_metadata(file).num_rows for file in files) * len(schema.names) < many_values:
        tables = reading.batches(folder, split, schema, columns)
        return DaySummary.of(day, schema.features, joined(tables), schema.labels, source, sources)
    # The columns are as the schema has them: this reads the first rows alone.
    next(reading.batches(folder, split, schema, columns), None)
    count = _counter(str(ROOT), day, [asdict(feature) for feature in schema.features], schema.labels, source, sources)
    with session("summarize") as spark:
        rows = spark.read.parquet(*map(str, files)).select(*columns)
        parts = [row[_JSON] for row in rows.mapInArrow(count, f"{_JSON} string").collect()]
    first, *others = map(DaySummary.from_json, parts)
    return first.merged(*others)


def largest(folder: Path, split: str, schema: ExampleSchema, source: str) -> tuple[str, ...]:
    """The sources with the most rows, which only the whole of the rows can say; none of too many to be counted."""
    feature, counts = schema.features[schema.names.index(source)], Categories()
    for table in reading.batches(folder, split, schema, [source]):
        counts.add(counted(feature, table[source]))
    known = {} if counts.hashed else counts.counts
    return tuple(sorted(known, key=lambda name: (-known[name], name))[:MOST_SOURCES])


def joined(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of some 64 thousand rows or 32 MiB: counting them takes half as long as a few thousand rows at a time."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(one.num_rows for one in held) >= _JOINED_ROWS or sum(one.nbytes for one in held) >= _JOINED_BYTES:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _counter(
    root: str,
    day: str,
    features: list[dict[str, Any]],
    labels: Sequence[str],
    source: str,
    sources: Sequence[str],
) -> Callable[[_Batches], _Batches]:
    """What `mapInArrow` runs; it names nothing of this checkout until a worker runs it."""
    name = _JSON

    def count(batches: _Batches) -> _Batches:
        if root not in sys.path:
            sys.path.insert(0, root)
        from components.schema import Feature
        from components.watch.day_summary import DaySummary
        from components.watch.summarizing import joined

        tables = joined(pa.Table.from_batches([batch]) for batch in batches)
        part = DaySummary.of(day, [Feature(**feature) for feature in features], tables, labels, source, sources)
        yield pa.RecordBatch.from_pydict({name: [part.to_json()]})

    return count
