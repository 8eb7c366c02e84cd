"""JSON lines: one object a line, its values as JSON has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.data.sources.source import ReadReport, Rows, Source
from components.data.sources.watched_file import watched

PIECE = 8192
"""Rows in a piece."""


def read(source: Source, report: ReadReport) -> Iterator[Rows]:
    """Yields the rows of JSON lines files; what an object lacks is null.

    Raises:
      TerminalError: A line is no object, holds another object, or a column has values of several types.
      TransientError: A file changes meanwhile.
    """
    for path in source.files():
        rows: list[dict[str, Any]] = []
        first = 1
        with watched(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    rows += _parsed(line, number, path, source, report)
                if len(rows) == PIECE:
                    yield Rows(_batch(rows, first, path, source), first, path.name)
                    rows, first = [], number + 1
            if rows:
                yield Rows(_batch(rows, first, path, source), first, path.name)


def _parsed(line: bytes, number: int, path: Path, source: Source, report: ReadReport) -> list[dict[str, Any]]:
    try:
        text = line.decode(source.encoding).removeprefix("\ufeff")
        row = json.loads(text, parse_constant=lambda constant: None)
    except ValueError as error:
        problem, received = str(error), line[:200].decode(errors="replace").strip()
    else:
        nested = [key for key, value in row.items() if isinstance(value, dict)] if isinstance(row, dict) else []
        if isinstance(row, dict) and not nested:
            return [row]
        problem = f"an object within an object in column {nested[0]}" if nested else f"a {type(row).__name__}"
        received = line[:200].decode(errors="replace").strip()
    report.reject(
        source.error(
            f"Line {number} of {path.name} is no row: {problem}.",
            expected='an object of plain values, such as {"a": 1, "b": "x"}',
            received=received,
        )
    )
    return []


def _batch(rows: list[dict[str, Any]], first: int, path: Path, source: Source) -> pa.RecordBatch:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        try:
            columns.append(_array(values, source))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            kinds: dict[type, int] = {}
            for index, value in enumerate(values):
                if value is not None:
                    kinds.setdefault(type(value), index)
            index = list(kinds.values())[min(1, len(kinds) - 1)]
            raise source.error(
                f"The column {name} of {path.name} has values of several types, from line {first + index} on.",
                expected=f"one type, {next(iter(kinds)).__name__} as before",
                received=f"{json.dumps(values[index])[:200]} ({error})"[:200],
                remedy="Write the column's values as one type.",
            ) from error
    return pa.RecordBatch.from_arrays(columns, names=names)


def _array(values: list[Any], source: Source) -> pa.Array:
    if any(isinstance(value, float) for value in values):
        values = [float(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in values]
    if any(isinstance(value, str) for value in values):
        # A number among strings would become one without a word; only what is missing may stand there.
        values = [None if isinstance(value, str) and value in source.missing else value for value in values]
    return pa.array(values)
