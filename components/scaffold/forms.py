"""Which form the text of a column has: a style of numbers, or a form of times, that all of its values fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.data.sources import Rows
from components.data.sources.parsing import STYLES, NumberStyle, instants, numbers

MARKERS = ("None", "none", "?", "-", "--", "n/a", "#N/A", "missing", "unknown")
"""Text that stands for a missing value where all else is a number."""
OFFSET = "offset"
"""Times in ISO 8601, each with its offset from UTC."""
_DAYS = ("%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d %b %Y", "%d-%b-%Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
TIME_FORMS = ("", OFFSET, *(day + clock for day in _DAYS for clock in _CLOCKS))
"""The forms that are tried; "" is ISO 8601 without an offset."""
_LIKE_A_TIME = r"^\s*\d{1,4}[-/. ]([A-Za-z]{3}|\d{1,2})[-/. ]\d{1,4}"
_BEGINNING = 200
"""So many values tell which forms are tried on all."""
_EPOCH = date(1970, 1, 1)


@dataclass
class Fit:
    """How many values of a column fit a form.

    Args:
      count: Values that fit.
      miss: Row and value of the first one that does not; "" where all fit.
      low: The least value: a number, or microseconds since 1970.
      high: The largest.
      whole: Whether all numbers are whole.
      days: Values by day since 1970, of times.
      clock: Whether a time is another than midnight.
    """

    count: int = 0
    miss: str = ""
    low: float = np.inf
    high: float = -np.inf
    whole: bool = True
    days: Counter[int] = field(default_factory=Counter)
    clock: bool = False

    @property
    def span(self) -> tuple[date, date]:
        """First and last day."""
        return _EPOCH + timedelta(days=min(self.days)), _EPOCH + timedelta(days=max(self.days))


class Forms:
    """The forms that the text of a column may have; those that fit nothing at first are tried no longer."""

    def __init__(self) -> None:
        self.styles: dict[NumberStyle, Fit] = {style: Fit() for style in STYLES}
        self.times: dict[str, Fit] = {form: Fit() for form in TIME_FORMS}
        self.markers: set[str] = set()
        self.marked = self.seen = 0
        self.leading_zeros = False

    def add(self, values: pa.Array, rows: Rows, column: str) -> None:
        """Tries the forms on text that is not missing.

        Args:
          values: The column in `rows`, strings.
          rows: To name a row.
          column: Its name.
        """
        counted = pc.value_counts(values.drop_null())
        unique, counts = counted.field("values"), np.asarray(counted.field("counts"))
        marked = np.asarray(pc.is_in(unique, pa.array(MARKERS)))
        if marked.any():
            self.markers |= set(unique.filter(pa.array(marked)).to_pylist())
            self.marked += int(counts[marked].sum())
            unique, counts = unique.filter(pa.array(~marked)), counts[~marked]
        if len(unique) == 0:
            return
        first = self.seen == 0
        self.seen += int(counts.sum())
        self.leading_zeros |= bool(pc.any(pc.match_substring_regex(unique, r"^0\d")).as_py())
        for style, fit in list(self.styles.items()):
            made = numbers(unique, style)
            _count(fit, made, unique, counts, rows, values, column)
            there = made.drop_null()
            if len(there):
                fit.whole &= bool(pc.all(pc.equal(pc.floor(there), there)).as_py())
            if first and not fit.count:
                del self.styles[style]
        if first:
            looks = pc.any(pc.match_substring_regex(unique, _LIKE_A_TIME)).as_py()
            beginning = unique[:_BEGINNING]
            self.times = {
                form: fit for form, fit in self.times.items() if looks and len(_times(beginning, form).drop_null())
            }
        for form, fit in self.times.items():
            made = _times(unique, form)
            _count(fit, made, unique, counts, rows, values, column)
            add_days(fit, made, counts)

    def best_style(self) -> tuple[NumberStyle | None, Fit]:
        """The style that fits most values, of equals the first."""
        return max(self.styles.items(), key=lambda item: item[1].count, default=(None, Fit()))

    def right_times(self) -> list[str]:
        """The forms that all values fit."""
        return [form for form, fit in self.times.items() if fit.count == self.seen + self.marked]

    def best_time(self) -> tuple[str, Fit]:
        """The form that fits most values."""
        return max(self.times.items(), key=lambda item: item[1].count, default=("", Fit()))


def _times(values: pa.Array, form: str) -> pa.Array:
    """Microseconds since 1970, null where a value has another form."""
    made = instants(values, "", "") if form == OFFSET else instants(values, form, "UTC")
    return made.cast(pa.int64())


def add_days(fit: Fit, micros: pa.Array, counts: np.ndarray | None = None) -> None:
    """Counts times by day.

    Args:
      fit: Where to.
      micros: Microseconds since 1970, null where there is no time.
      counts: How often each is there; None for once.
    """
    there = np.asarray(pc.is_valid(micros))
    days, rest = np.divmod(np.asarray(micros.drop_null()), 86_400_000_000)
    fit.clock |= bool(rest.any())
    unique, place = np.unique(days, return_inverse=True)
    weights = np.bincount(place, None if counts is None else counts[there], len(unique))
    fit.days.update(dict(zip(unique.tolist(), weights.astype(int).tolist(), strict=True)))


def _count(
    fit: Fit, made: pa.Array, unique: pa.Array, counts: np.ndarray, rows: Rows, values: pa.Array, column: str
) -> None:
    fits = np.asarray(pc.is_valid(made))
    fit.count += int(counts[fits].sum())
    if not fits.all() and not fit.miss:
        value = unique[int(np.argmin(fits))]
        fit.miss = f"{value.as_py()!r} in {rows.place(int(pc.index(values, value).as_py()), column)}"
    if fits.any():
        span: dict[str, Any] = pc.min_max(made).as_py()
        fit.low, fit.high = min(fit.low, span["min"]), max(fit.high, span["max"])
