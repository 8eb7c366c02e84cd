"""Features of a table's columns, each with what to expect of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from components.scaffold.column_profile import ColumnProfile
from components.scaffold.forms import Fit

FEW = 20
"""Categories of up to so many values are expected to have no others."""
TEXT_LENGTH = 25
"""Characters from which on a text with many values is read word by word."""
_SHOWN = 3
_LONGEST = 60
_DAYS_FOR_WEEKDAYS, _DAYS_FOR_MONTHS = 14, 550
_CALENDAR = {
    "hour": {"hour", "hr", "hour_of_day"},
    "weekday": {"weekday", "day_of_week", "dayofweek"},
    "month": {"month", "mnth"},
}
"""Features of a row's time, each with names under which a table may have it itself."""


@dataclass(frozen=True)
class ProposedFeature:
    """One input of the model.

    Args:
      name: In the lake and the schema.
      kind: As in `components.schema.Feature`.
      description: What was seen of it.
      bounds: Numbers are expected within these; None for no expectation.
      values: Categories are expected among these; () for no expectation.
      always: Whether it was never missing.
      length: Of a vector.
      separator: Of several categories in one text.
      listed: Whether the categories are a list in the source.
      computed: How Spark makes it of the column `local`; "" for a column of the table.
    """

    name: str
    kind: str
    description: str
    bounds: tuple[float, float] | None = None
    values: tuple[str, ...] = ()
    always: bool = False
    length: int = 0
    separator: str = ""
    listed: bool = False
    computed: str = ""


def of_column(name: str, column: ColumnProfile) -> ProposedFeature:
    """The feature of one column."""
    always = not column.missing
    missing = "" if always else f"; missing in {share(column.share_missing)}"
    if column.kind in ("number", "bool"):
        low, high = (0.0, 1.0) if column.kind == "bool" else (column.low, column.high)
        words = "0 or 1" if (low, high) == (0, 1) and column.whole | (column.kind == "bool") else f"{low:g} to {high:g}"
        exact = column.kind == "bool" or (column.whole and 0 < len(column.values) <= FEW)
        bounds = (low, high) if exact else (slack(low, high, below=True), slack(low, high, below=False))
        bounded = all(map(math.isfinite, bounds))
        return ProposedFeature(name, "number", words + missing, bounds=bounds if bounded else None, always=always)
    if column.kind == "vector":
        length = column.lengths[0]
        return ProposedFeature(name, "vector", f"{length} numbers{missing}", always=always, length=length)
    if column.kind == "image":
        return ProposedFeature(name, "image", f"PNG or JPEG{missing}", always=always)
    if column.kind == "categories" or column.separator:
        words = f"several categories, separated by {column.separator}" if column.separator else "lists of categories"
        listed = column.kind == "categories"
        return ProposedFeature(name, "categories", words + missing, separator=column.separator, listed=listed)
    many = not column.values or len(column.values) > column.rows / 2
    if many and column.mean_length >= TEXT_LENGTH:
        return ProposedFeature(name, "text", f"{column.mean_length:.0f} characters on average{missing}", always=always)
    values = tuple(str(value) for value, _ in column.values)
    shown = ", ".join(values[:_SHOWN])
    shown = f", such as {shown}" if shown and len(shown) <= _LONGEST and '"' not in shown and "\\" not in shown else ""
    words = f"{len(values)} values{shown}" if values else "over 1,000 values"
    expected = tuple(sorted(values)) if len(values) <= FEW else ()
    return ProposedFeature(name, "category", words + missing, values=expected, always=always)


def of_calendar(fit: Fit, taken: Sequence[str]) -> tuple[ProposedFeature, ...]:
    """Hour, weekday and month of a row's local time, where the times span enough of them and no column has them."""
    first, last = fit.span
    days = (last - first).days + 1
    made = (
        (fit.clock, "hour", "number", "Hour of the day, 0 to 23", "F.hour(local)"),
        (days >= _DAYS_FOR_WEEKDAYS, "weekday", "category", "Day of the week, Mon to Sun", 'F.date_format(local, "E")'),
        (days >= _DAYS_FOR_MONTHS, "month", "number", "Month, 1 to 12", "F.month(local)"),
    )
    lowered = {name.lower() for name in taken}
    return tuple(
        ProposedFeature(name, kind, description, computed=computed)
        for there, name, kind, description, computed in made
        if there and not lowered & _CALENDAR[name]
    )


def is_calendar(name: str) -> bool:
    """Whether a column of this name would be taken for a feature of the calendar."""
    return any(name.lower() in names for names in _CALENDAR.values())


def share(value: float) -> str:
    """A share in words."""
    return f"{value:.1%}" if value >= 1e-3 else "under 0.1%"  # noqa: PLR2004


def slack(low: float, high: float, *, below: bool) -> float:
    """A bound with room for what was not seen yet: half the range, and rounded outward; nothing below 0 if none was."""
    room = (high - low) / 2 or abs(high) / 2 or 1.0
    bound = low - room if below else high + room
    if below and low >= 0 > bound:
        return 0.0
    if not math.isfinite(bound):
        return bound
    step = 10.0 ** (math.floor(math.log10(abs(bound))) - 1) if bound else 1.0
    return float(f"{(math.floor if below else math.ceil)(bound / step) * step:.6g}")
