"""Text to numbers and times: what cannot be read is null in the result, and the caller names its row."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.data.sources.source import Rows, Source

INSTANT = pa.timestamp("us", tz="UTC")
EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
"""Microseconds in a unit of a time that is a number."""
_PLAIN = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_PARTS = ("year", "month", "day", "hour", "minute", "second")
_HOURS_OF_DAY = 24


@dataclass(frozen=True)
class NumberStyle:
    """How numbers are written.

    Args:
      decimal: The decimal point.
      thousands: What separates thousands; "" for nothing.
    """

    decimal: str = "."
    thousands: str = ""

    @property
    def pattern(self) -> str:
        """A regular expression of a whole number in this style."""
        point = re.escape(self.decimal)
        if not self.thousands:
            return "^" + _PLAIN.replace(r"\.", point) + "$"
        group = re.escape(self.thousands)
        return rf"^[+-]?(\d{{1,3}}({group}\d{{3}})+({point}\d*)?|" + _PLAIN.replace(r"\.", point) + ")$"


STYLES = tuple(
    NumberStyle(decimal, thousands)
    for decimal, thousands in ((".", ""), (",", ""), (".", ","), (",", "."), (".", " "), (",", " "), (".", "'"))
)
"""The styles that are tried, the likeliest first."""


def numbers(values: pa.Array, style: NumberStyle = STYLES[0]) -> pa.Array:
    """Float64 of text, null where it is no finite number in this style."""
    text = pc.utf8_trim_whitespace(values)
    if style == STYLES[0]:
        with contextlib.suppress(pa.ArrowInvalid):
            parsed = text.cast(pa.float64())
            if not pc.any(pc.invert(pc.is_finite(parsed))).as_py():
                return parsed
    matches = pc.match_substring_regex(text, style.pattern)
    text = pc.if_else(matches, text, pa.scalar(None, text.type))
    if style.thousands:
        text = pc.replace_substring(text, style.thousands, "")
    parsed = pc.replace_substring(text, style.decimal, ".").cast(pa.float64())
    # What no float64 holds is infinite.
    return pc.if_else(pc.is_finite(parsed), parsed, pa.scalar(None, pa.float64()))


def instants(values: pa.Array, time_format: str, zone: str) -> pa.Array:
    """Instants (timestamp[us, UTC]) of a column of text, dates, timestamps or numbers, null where it is no time.

    Args:
      values: The column.
      time_format: As `Source.time_format`.
      zone: As `Source.time_zone`. Of an hour that the clocks repeat the earlier one is meant; one that they skip is no
        time.
    """
    kind = values.type
    if time_format in EPOCHS:
        micros = pc.multiply_checked(values if not pa.types.is_string(kind) else numbers(values), EPOCHS[time_format])
        if pa.types.is_floating(micros.type):
            # What no int64 holds, NaN among it, is no time; a cast would refuse all rows because of one.
            fits = pc.less(pc.abs(micros), float(1 << 63))
            micros = pc.if_else(fits, pc.round(micros), pa.scalar(None, micros.type))
        return micros.cast(pa.int64()).cast(INSTANT)
    if pa.types.is_date(kind):
        return local_instants(values.cast(pa.timestamp("us")), zone or "UTC")
    if pa.types.is_timestamp(kind):
        micros = values.cast(pa.timestamp("us", kind.tz), safe=False)
        return micros.cast(INSTANT) if kind.tz else local_instants(micros, zone or "UTC")
    if not pa.types.is_string(kind):
        return pa.nulls(len(values), INSTANT)
    text = pc.utf8_trim_whitespace(values)
    if not time_format:
        with contextlib.suppress(pa.ArrowInvalid):
            return local_instants(text.cast(pa.timestamp("us")), zone) if zone else text.cast(INSTANT)
    return _by_pandas(text, time_format, zone)


def local_instants(values: pa.Array, zone: str) -> pa.Array:
    """Instants of local times, timestamp[us]; null where the clocks of the zone skip them."""
    made = pc.assume_timezone(values, zone, ambiguous="earliest", nonexistent="earliest")
    exists = pc.equal(pc.local_timestamp(made), values)
    return pc.if_else(exists, made, pa.scalar(None, made.type)).cast(INSTANT)


def _by_pandas(text: pa.Array, time_format: str, zone: str) -> pa.Array:
    series = pd.Series(text.to_pandas())
    has_offset = series.str.contains(r"(?:Z|[+-]\d{2}:?\d{2})$", regex=True, na=False)
    if time_format and "%z" not in time_format:
        has_offset[:] = False
    made = pd.to_datetime(
        series.where(has_offset == (not zone)), format=time_format or "ISO8601", errors="coerce", utc=True
    )
    naive = pa.Array.from_pandas(made.dt.tz_localize(None)).cast(pa.timestamp("us"), safe=False)
    return local_instants(naive, zone) if zone else local_instants(naive, "UTC")


def time_of(rows: Rows, source: Source) -> pa.Array:
    """The instants of rows, from the columns that `Source.time` names; null where they make none."""
    columns = [rows.column(name) for name in source.time]
    return _where_possible(lambda parts: _time_of(parts, source), columns, INSTANT)


def _time_of(columns: Sequence[pa.Array], source: Source) -> pa.Array:
    if len(columns) == 1:
        return instants(columns[0], source.time_format, source.time_zone)
    lowered = [name.lower() for name in source.time]
    if set(lowered) <= set(_PARTS) and lowered[:3] == list(_PARTS[:3]):
        parts = {
            name: _as_numbers(column).to_numpy(zero_copy_only=False)
            for name, column in zip(lowered, columns, strict=True)
        }
        made = pd.Series(pd.to_datetime(pd.DataFrame(parts), errors="coerce"))
        return local_instants(pa.Array.from_pandas(made).cast(pa.timestamp("us")), source.time_zone or "UTC")
    day, clock = columns[0], columns[1]
    hours = _as_numbers(clock)
    if hours.null_count == clock.null_count:
        local = instants(day, source.time_format, "UTC").cast(pa.timestamp("us"))
        inside = pc.and_(pc.greater_equal(hours, 0.0), pc.less(hours, float(_HOURS_OF_DAY)))
        hours = pc.if_else(inside, hours, pa.scalar(None, pa.float64()))
        micros = pc.round(pc.multiply(hours, 3.6e9)).cast(pa.int64()).cast(pa.duration("us"))
        return local_instants(pc.add(local, micros), source.time_zone or "UTC")
    joined = pc.binary_join_element_wise(day.cast(pa.string()), clock.cast(pa.string()), " ")
    return instants(joined, source.time_format, source.time_zone)


def _as_numbers(column: pa.Array) -> pa.Array:
    return numbers(column) if pa.types.is_string(column.type) else column.cast(pa.float64())


def _where_possible(
    convert: Callable[[Sequence[pa.Array]], pa.Array], columns: Sequence[pa.Array], kind: pa.DataType
) -> pa.Array:
    """What becomes of columns, null in rows of which nothing can become: Arrow refuses all rows because of one."""
    try:
        return convert(columns)
    except pa.ArrowNotImplementedError:  # No value of this type is one of that.
        return pa.nulls(len(columns[0]), kind)
    except pa.ArrowInvalid:
        if not (half := len(columns[0]) // 2):
            return pa.nulls(len(columns[0]), kind)
        parts = [[column[:half] for column in columns], [column[half:] for column in columns]]
        return pa.concat_arrays([_where_possible(convert, part, kind) for part in parts])


def typed(values: pa.Array, kind: pa.DataType, source: Source, separator: str = "") -> pa.Array:
    """A column in a type of the lake, null where a value does not fit: none is changed into another.

    Args:
      values: In the source's type.
      kind: The type of the lake.
      source: How its text is read.
      separator: Of the items of a list that is text.
    """
    return _where_possible(lambda parts: _typed(parts[0], kind, source, separator), [values], kind)


def _typed(values: pa.Array, kind: pa.DataType, source: Source, separator: str) -> pa.Array:
    numeric = not (pa.types.is_temporal(kind) or pa.types.is_string(kind))
    # A time as a number would be one of days or of microseconds.
    if pa.types.is_null(values.type) or (numeric and pa.types.is_temporal(values.type)):
        return pa.nulls(len(values), kind)
    if values.type == kind:
        return values
    if pa.types.is_string(kind):
        return _text(values)
    if pa.types.is_timestamp(kind):
        return instants(values, source.time_format if pa.types.is_string(values.type) else "", source.time_zone)
    if pa.types.is_string(values.type) and pa.types.is_list(kind):
        return _split(values, separator)
    if pa.types.is_string(values.type):
        boolean = pa.types.is_boolean(kind)
        style = NumberStyle(source.decimal, source.thousands)
        # What is true or false where a number is wanted is 1 or 0.
        values = _booleans(values) if boolean else pc.coalesce(numbers(values, style), _truth(values))
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        values = _whole(values, pa.types.is_boolean(kind))
    leaf = kind.value_type if pa.types.is_list(kind) else kind
    # A float may round, as it does wherever it is computed with; what is no float fits exactly or not at all.
    return values.cast(kind, safe=not pa.types.is_floating(leaf))


def _split(values: pa.Array, separator: str) -> pa.Array:
    """Lists of the parts of text, without blanks around them."""
    parts = pc.split_pattern(values, separator)
    trimmed = pc.utf8_trim_whitespace(parts.flatten())
    lists = pa.ListArray.from_arrays(parts.offsets, trimmed, mask=pc.is_null(parts))
    return lists


def _truth(values: pa.Array) -> pa.Array:
    lowered = pc.utf8_lower(pc.utf8_trim_whitespace(values))
    word = pc.is_in(lowered, pa.array(["true", "false"]))
    return pc.if_else(word, pc.equal(lowered, "true").cast(pa.float64()), pa.scalar(None, pa.float64()))


def _whole(values: pa.Array, boolean: bool) -> pa.Array:
    """Numbers without those that are not whole, or neither 0 nor 1."""
    if not pa.types.is_floating(values.type) and not boolean:
        return values
    floats = values.cast(pa.float64(), safe=False)
    fits = pc.is_in(floats, pa.array([0.0, 1.0])) if boolean else pc.equal(pc.floor(floats), floats)
    return pc.if_else(pc.and_(fits, pc.less(pc.abs(floats), 2.0**53)), floats, pa.scalar(None, pa.float64()))


def _text(values: pa.Array) -> pa.Array:
    if not pa.types.is_floating(values.type):
        return values.cast(pa.string())
    whole = pc.fill_null(pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**53)), False)
    integers = pc.if_else(whole, values, 0.0).cast(pa.int64())
    return pc.if_else(whole, integers.cast(pa.string()), values.cast(pa.string()))


def _booleans(values: pa.Array) -> pa.Array:
    lowered = pc.utf8_lower(pc.utf8_trim_whitespace(values))
    true = pc.is_in(lowered, pa.array(["true", "t", "yes", "y", "1"]))
    false = pc.is_in(lowered, pa.array(["false", "f", "no", "n", "0"]))
    return pc.if_else(pc.or_(true, false), true, pa.scalar(None, pa.bool_()))
