"""Finds out how a source is to be read: encoding, delimiter, table, and the forms of its numbers and times."""

from __future__ import annotations

import difflib
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

from airtight.errors import TerminalError
from airtight.home import ROOT
from components.data.sources import Rows, Source, read
from components.data.sources.csv_files import guess_form
from components.data.sources.parsing import EPOCHS, STYLES, NumberStyle
from components.data.sources.source import ENVIRONMENT, MISSING
from components.data.sources.sql_tables import tables
from components.scaffold.column_profile import ColumnProfile, ColumnScan
from components.scaffold.forms import OFFSET
from components.scaffold.options import Options, ask
from components.scaffold.table_profile import TableProfile

_BEGINNING = 2000
"""So many rows tell which columns hold times."""
_EPOCH_RANGES = {"epoch_s": (1e8, 1e10), "epoch_ms": (1e11, 1e13), "epoch_us": (1e14, 1e16)}


def first_look(options: Options) -> Source:
    """The source as far as its beginning tells.

    Raises:
      TerminalError: There are no such data, or the database's table is not named.
    """
    missing = (*MISSING, *options.missing)
    data = _without_password(options)
    time = () if options.time == ("none",) else options.time
    source = Source(
        data,
        missing=missing,
        time=time,
        time_zone=options.time_zone,
        time_format=options.time_format,
        unreadable=options.unreadable,
    )
    if source.format == "sql":
        source = replace(source, table=options.table or _only_table(source))
    elif source.format == "csv":
        source = _csv_form(source, options)
    return _with_columns(source, options)


def _csv_form(source: Source, options: Options) -> Source:
    path = source.files()[0]
    encoding, delimiter = guess_form(path, options.encoding)
    delimiter = options.delimiter.replace("\\t", "\t") or delimiter
    decimal = options.decimal or source.decimal
    return replace(
        source,
        encoding=encoding,
        delimiter=delimiter,
        header=options.header,
        decimal=decimal,
    )


def _with_columns(source: Source, options: Options) -> Source:
    """The source with the columns of its time, and the form of times that are numbers, by its first rows.

    Raises:
      TerminalError: There are no rows or no such columns, or it is not said which is the label or the time.
    """
    rows = next(read(source), None)
    if rows is None:
        raise source.error(
            f"{source.name} has not a single row.", expected="rows", received="none", remedy="Name data with rows."
        )
    names = rows.batch.schema.names
    if not options.label:
        raise ask("LABEL", "the column of what is to be predicted", names)
    wanted = {"LABEL": [options.label], "TIME": source.time, "KEY": options.key, "DROP": options.drop}
    for option, columns in wanted.items():
        if absent := [name for name in columns if name not in names]:
            near = [name for name in names if _folded(name) == _folded(absent[0])]
            near += difflib.get_close_matches(absent[0], names, n=1)
            raise source.error(
                f"There is no column {absent[0]!r}.",
                expected=f"one of {', '.join(names)}" + (f"; did you mean {near[0]}?" if near else ""),
                received=f"{option}={absent[0]}",
                remedy=f"Name a column of {source.name}: {option}=...",
            )
    for option in ("LABEL", "TIME", "KEY"):
        if dropped := [name for name in wanted[option] if name in options.drop]:
            raise source.error(
                f"The column {dropped[0]} is wanted, and left out.",
                expected=f"columns of DROP that {option} does not name",
                received=f"{option}={dropped[0]} and DROP={','.join(options.drop)}",
                remedy="Name it once.",
            )
    kinds = {name: _kind(name, rows, source) for name in names if name not in options.drop}
    if not options.time:
        times = [name for name, column in kinds.items() if column.kind == "time" and name != options.label]
        if len(times) > 1:
            raise ask("TIME", f"one of {', '.join(times)}, or none", f"{len(times)} columns of times", example=times[0])
        source = replace(source, time=tuple(times))
    if len(source.time) == 1 and (column := kinds[source.time[0]]).kind == "number" and not source.time_format:
        return replace(source, time_format=_epoch(source, column))
    return source


def _folded(name: str) -> str:
    """A name without what the eye does not see, such as an accent of its own beside its letter."""
    return unicodedata.normalize("NFKC", name).casefold()


def _kind(name: str, rows: Rows, source: Source) -> ColumnProfile:
    scan = ColumnScan(name, source)
    scan.add(replace(rows, batch=rows.batch.slice(0, _BEGINNING)))
    return scan.profile()


def _epoch(source: Source, column: ColumnProfile) -> str:
    for form, (low, high) in _EPOCH_RANGES.items():
        if low <= column.low and column.high < high:
            return form
    raise _no_times(source, column)


def _without_password(options: Options) -> str:
    """What the pipeline's folder may name: a URL with a password is in the environment, not in the code."""
    import sqlalchemy as sa

    if "://" not in options.data:
        return _portable(options.data)
    try:
        password = sa.make_url(options.data).password
    except sa.exc.ArgumentError:
        password = None  # Reading it says what is wrong.
    if not password:
        return options.data
    variable = f"{options.name.upper()}_DATABASE"
    os.environ[variable] = options.data
    return f"{ENVIRONMENT}{variable}"


def _portable(data: str) -> str:
    """Relative to the checkout where the file lies within."""
    if data.startswith(ENVIRONMENT):
        return data
    path = Path(data).expanduser().resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _only_table(source: Source) -> str:
    names = tables(source)
    if len(names) != 1:
        raise ask("TABLE", "the name of one table", names or "a database without tables that this user sees")
    return names[0]


def number_style(source: Source, columns: dict[str, ColumnProfile], decimal: str) -> NumberStyle:
    """The style of all numbers of a source.

    Raises:
      TerminalError: 1,234 may be a thousand or a little more than one, or columns differ.
    """
    text = {name: column for name, column in columns.items() if column.styles}
    fits = [
        style
        for style in STYLES
        if all(style in column.styles for column in text.values()) and (not decimal or style.decimal == decimal)
    ]
    if not fits:
        one, other = _differing(text)
        raise source.error(
            "Numbers are written in two styles.",
            expected="one decimal point, and one separator of thousands" + (f", DECIMAL={decimal}" if decimal else ""),
            received=f"the columns {one} and {other}",
            remedy="Correct the data, or leave one of the columns out (DROP=...).",
        )
    if fits[0] == STYLES[0] or decimal:
        return fits[0]
    if {style.decimal for style in fits} == {".", ","}:
        example = next(name for name, column in text.items() if STYLES[0] not in column.styles)
        raise ask(
            "DECIMAL",
            "DECIMAL=. where 1,234 is a thousand and more, DECIMAL=, where it is little more than one",
            f"the column {example}, in which every number with a comma has three digits after it",
            example=".",
        )
    return fits[0]


def _differing(columns: dict[str, ColumnProfile]) -> tuple[str, str]:
    names = list(columns)
    for name in names:
        for other in names:
            if not set(columns[name].styles) & set(columns[other].styles):
                return name, other
    return names[0], names[-1]


def time_form(source: Source, table: TableProfile, options: Options) -> Source:
    """The source with the form of its times.

    Raises:
      TerminalError: A column named by TIME holds none, or days and months may be each other.
    """
    if not source.time:
        return source
    column = table.columns[source.time[0]]
    if source.time_format or (len(source.time) > 1 and column.kind == "number"):
        if not table.time.days:
            raise _no_times(source, column)
        _check_times(source, table)
        return source
    if column.kind != "time":
        raise _no_times(source, column)
    if len(column.time_forms) > 1:
        raise ask(
            "TIME_FORMAT",
            f"one of {', '.join(column.time_forms)}",
            f"times in {column.name} that fit each of them: no day is after the twelfth",
            example=column.time_forms[0],
        )
    if not column.time_forms[0]:
        _check_times(source, table)
    if column.missing and not source.lenient:
        raise source.error(
            "Not every row has a time.",
            expected=f"a time in the column {column.name} of each row",
            received=f"none in {column.missing:,} of {column.rows:,}",
            remedy="Correct the data, or say TIME=none.",
        )
    if column.time_forms == (OFFSET,):
        return replace(source, time_zone="")
    return replace(source, time_format=column.time_forms[0])


def _check_times(source: Source, table: TableProfile) -> None:
    if table.no_time and not source.lenient:
        raise source.error(
            f"Not every row has a time that there is in the zone {source.time_zone}.",
            expected=f"times in the form {source.time_format or 'ISO 8601'}, and none that the clocks skipped",
            received=table.no_time,
            remedy="Correct the row. TIME_ZONE=UTC takes all times as they are written.",
        )


def _no_times(source: Source, column: ColumnProfile) -> TerminalError:
    if column.kind == "number":
        received = f"numbers from {column.low:g} to {column.high:g}"
    else:
        shown = ", ".join(repr(value) for value, _ in column.values[:3])
        received = f"{column.kind}, such as {shown}" if shown else f"no value in {column.missing:,} of {column.rows:,}"
    return source.error(
        f"The column {column.name} holds no times.",
        expected=f"ISO 8601, a usual form of dates, or seconds since 1970 ({', '.join(EPOCHS)})",
        received=received,
        remedy="Name another column (TIME=...), the form of its times (TIME_FORMAT=%d.%m.%Y), or TIME=none.",
    )
