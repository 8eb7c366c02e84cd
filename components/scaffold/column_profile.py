"""What a column holds, seen once from beginning to end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airtight.errors import TerminalError
from components.data.feature_kinds import is_image
from components.data.sources import Rows, Source
from components.data.sources.parsing import NumberStyle, instants, numbers
from components.data.sources.source import LENIENT
from components.scaffold.distinct import Repeats, hashes
from components.scaffold.forms import Fit, Forms, add_days

VALUES = 1000
"""So many different values are counted; of more only that they are many."""
SEPARATORS = ("|", ";", ",")
_MOSTLY = 0.95
"""From this share on a column of numbers or times has wrong values in it, and is no text."""

_FAMILIES = {
    "text": (pa.types.is_string, pa.types.is_large_string),
    "bool": (pa.types.is_boolean,),
    "number": (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal),
    "time": (pa.types.is_timestamp, pa.types.is_date),
    "bytes": (pa.types.is_binary, pa.types.is_large_binary),
}

Kind = Literal["number", "bool", "time", "text", "categories", "vector", "image", "empty"]


@dataclass(frozen=True)
class ColumnProfile:
    """What a column holds.

    Args:
      name: In the source.
      kind: Of its values; "text" is every string, "categories" a list of strings, "empty" has no value at all.
      rows: Rows of the table.
      missing: Of these, rows without a value.
      values: Its values by how often they are there; () where they are more than VALUES.
      unique: Whether no value is there twice.
      low: The least number.
      high: The largest.
      whole: Whether all numbers are whole.
      styles: Ways to read numbers that are text, each with what they then are.
      markers: Text that stands for a missing number.
      time_forms: Forms that all times have; of two nobody knows which is meant.
      span: Times by day, where they are times.
      mean_length: Characters of a text, or items of a list.
      lengths: The lengths of vectors.
      separator: What separates several categories in one text; "" for nothing.
      unreadable: How many rows are left out for what stands here, and the first one; "" where none is.
    """

    name: str
    kind: Kind
    rows: int
    missing: int
    values: tuple[tuple[Any, int], ...] = ()
    unique: bool = False
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    styles: dict[NumberStyle, Fit] = field(default_factory=dict)
    markers: tuple[str, ...] = ()
    time_forms: tuple[str, ...] = ()
    span: Fit = field(default_factory=Fit)
    mean_length: float = 0.0
    lengths: tuple[int, ...] = ()
    separator: str = ""
    unreadable: str = ""

    def in_style(self, style: NumberStyle) -> ColumnProfile:
        """The column with its numbers read in a style."""
        if not self.styles:
            return self
        fit = self.styles[style]
        return replace(self, low=fit.low, high=fit.high, whole=fit.whole)

    @property
    def share_missing(self) -> float:
        """Share of the rows without a value."""
        return self.missing / self.rows if self.rows else 0.0


class ColumnScan:
    """Looks at a column piece by piece.

    Args:
      name: Of the column.
      source: How its text is read.
    """

    def __init__(self, name: str, source: Source) -> None:
        self._name, self._source = name, source
        self._rows = self._missing = 0
        self._values: Counter[Any] | None = Counter()
        self._forms, self._numbers, self._times = Forms(), Fit(), Fit()
        self._types: set[str] = set()
        self._repeats = Repeats()
        self._lengths: Counter[int] = Counter()
        self._characters = 0
        self._separated: Counter[str] = Counter()
        self._tokens: dict[str, Counter[str]] = {separator: Counter() for separator in SEPARATORS}
        self._all_images = True

    def add(self, rows: Rows) -> None:
        """Takes the column's values of some rows."""
        column = rows.column(self._name)
        self._rows += len(column)
        self._missing += column.null_count
        kind = column.type
        if column.null_count == len(column):
            return
        family = _family(kind)
        if _is_list(kind):
            lengths = pc.value_counts(pc.list_value_length(column).drop_null()).to_pylist()
            self._lengths.update({int(entry["values"]): entry["counts"] for entry in lengths})
            # Lists without items have no type.
            self._types |= {family} if any(entry["values"] for entry in lengths) else set()
            return
        if family == "bytes":
            values = [value for value in column.drop_null().to_pylist() if value]
            self._types |= {family} if values else set()
            self._all_images &= all(map(is_image, values))
            return
        self._types.add(family)
        if family not in _FAMILIES:
            return
        self._count_values(column)
        if family == "text":
            self._forms.add(column, rows, self._name)
            self._look_at_text(column.drop_null())
            self._repeats.add(hashes(column))
        elif family == "time":
            add_days(self._times, instants(column, "", "UTC").cast(pa.int64()))
        elif family == "number":
            self._look_at_numbers(column.drop_null().cast(pa.float64(), safe=False))
            if pa.types.is_integer(kind):
                self._repeats.add(hashes(column))

    def _count_values(self, column: pa.Array) -> None:
        if self._values is None:
            return
        counted = pc.value_counts(column.drop_null())
        for entry in counted[: VALUES + 1]:
            self._values[entry["values"].as_py()] += entry["counts"].as_py()
        if len(self._values) > VALUES:
            self._values = None

    def _look_at_numbers(self, column: pa.Array) -> None:
        there = column.filter(pc.is_finite(column))
        self._missing += len(column) - len(there)
        if len(there):
            span = pc.min_max(there).as_py()
            self._numbers.low = min(self._numbers.low, span["min"])
            self._numbers.high = max(self._numbers.high, span["max"])
            self._numbers.whole &= bool(pc.all(pc.equal(pc.floor(there), there)).as_py())

    def _look_at_text(self, column: pa.Array) -> None:
        self._characters += pc.sum(pc.utf8_length(column)).as_py() or 0
        for separator in SEPARATORS:
            tokens = self._tokens[separator]
            parts = column.filter(pc.match_substring(column, separator))
            self._separated[separator] += len(parts)
            if len(tokens) <= VALUES and len(parts):
                for entry in pc.value_counts(pc.split_pattern(parts, separator).flatten()):
                    tokens[entry["values"].as_py().strip()] += entry["counts"].as_py()

    def profile(self) -> ColumnProfile:
        """What was seen.

        Raises:
          TerminalError: Nearly all values are numbers, or times, and some are not; or they are of several types.
        """
        common: dict[str, Any] = {"name": self._name, "rows": self._rows, "missing": self._missing}
        if not self._types:
            return ColumnProfile(kind="empty", **common)
        common["values"] = tuple(self._values.most_common()) if self._values is not None else ()
        common["unique"] = self._rows > 1 and bool(self._repeats.rows) and self._repeats.unique()
        if self._types == {"text"}:
            return self._of_text(common)
        numbers = {"low": self._numbers.low, "high": self._numbers.high, "whole": self._numbers.whole}
        kinds: dict[str, tuple[Kind, dict[str, Any]]] = {
            "number": ("number", numbers),
            "time": ("time", {"span": self._times, "time_forms": ("",)}),
            "lists of number": ("vector", {"lengths": tuple(sorted(self._lengths))}),
            "lists of text": ("categories", {"mean_length": self._mean_length}),
            "bool": ("bool", {}),
            **({"bytes": ("image", {})} if self._all_images else {}),
        }
        if len(self._types) > 1 or not self._types <= set(kinds):
            raise self._source.error(
                f"The column {self._name} cannot be a feature.",
                expected="numbers, texts, times, lists of numbers or texts, or whole PNG and JPEG images",
                received=", ".join(sorted(self._types)),
                remedy=f"Leave it out: DROP={self._name}.",
            )
        kind, seen = kinds[self._types.pop()]
        return ColumnProfile(kind=kind, **seen, **common)

    @property
    def _mean_length(self) -> float:
        return sum(length * count for length, count in self._lengths.items()) / max(1, self._lengths.total())

    def _of_text(self, common: dict[str, Any]) -> ColumnProfile:
        forms, count = self._forms, self._rows - self._missing
        style, fit = forms.best_style()
        # Markers alone are no numbers.
        style = style if forms.seen and not forms.leading_zeros else None
        lowered = {str(value).lower() for value, _ in common["values"]}
        if lowered and lowered <= {"true", "false"}:
            return ColumnProfile(kind="bool", **common)
        if style and self._fits(fit, forms.seen):
            common |= {"missing": self._missing + forms.marked, "unreadable": _unreadable(fit, forms.seen, "numbers")}
            there = numbers(pa.array([str(value) for value, _ in common["values"]], pa.string()), style)
            common["values"] = tuple(
                pair for pair, fits in zip(common["values"], there.is_valid(), strict=True) if fits.as_py()
            )
            styles = {other: own for other, own in forms.styles.items() if own.count == fit.count}
            return ColumnProfile(kind="number", styles=styles, markers=tuple(sorted(forms.markers)), **common).in_style(
                style
            )
        if right := forms.right_times():
            return ColumnProfile(kind="time", span=forms.times[right[0]], time_forms=tuple(right), **common)
        form, times = forms.best_time()
        if self._source.lenient and times.count >= _MOSTLY * count:
            equal = tuple(other for other, own in forms.times.items() if own.count == times.count)
            common["unreadable"] = _unreadable(times, count, "times")
            return ColumnProfile(kind="time", span=times, time_forms=equal, **common)
        if times.count > count / 2:
            raise self._wrong("times of two forms", f"every time as {form or 'ISO 8601'}", times, "Correct the data")
        if style and fit.count >= _MOSTLY * forms.seen:
            raise self._wrong(
                "numbers, and values that are none",
                "numbers",
                fit,
                "Correct the data, name what stands for a missing value (MISSING=...)",
            )
        return ColumnProfile(
            kind="text", mean_length=self._characters / max(1, count), separator=self._separator(count), **common
        )

    def _wrong(self, holds: str, expected: str, fit: Fit, remedy: str) -> TerminalError:
        return self._source.error(
            f"The column {self._name} holds {holds}.",
            expected=expected,
            received=fit.miss,
            remedy=f"{remedy}, or leave such rows out (UNREADABLE={LENIENT}) or the column (DROP={self._name}).",
        )

    def _fits(self, fit: Fit, seen: int) -> bool:
        """Whether all values are of a form, or nearly all where rows with others are left out."""
        return fit.count == seen or (self._source.lenient and fit.count >= _MOSTLY * seen)

    def _separator(self, count: int) -> str:
        """What separates several categories: it is in many cells, and its parts come again and again."""
        for separator in SEPARATORS:
            tokens = self._tokens[separator]
            if self._separated[separator] >= count / 4 and 1 < len(tokens) <= min(VALUES, tokens.total() / 3):
                return separator
        return ""


def _unreadable(fit: Fit, seen: int, form: str) -> str:
    return f"{seen - fit.count:,} rows whose values are no {form} are left out, such as {fit.miss}" if fit.miss else ""


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind))


def _family(kind: pa.DataType) -> str:
    if _is_list(kind):
        return f"lists of {_family(kind.value_type)}"
    return next((name for name, checks in _FAMILIES.items() if any(check(kind) for check in checks)), str(kind))


def as_numbers(column: pa.Array, style: NumberStyle) -> np.ndarray:
    """Float64 [rows] of a column, NaN where there is no number."""
    if pa.types.is_string(column.type):
        column = numbers(column, style)
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        if not (pa.types.is_boolean(column.type) or pa.types.is_decimal(column.type)):
            return np.full(len(column), np.nan)
    values: np.ndarray = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values
