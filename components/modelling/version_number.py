"""The number of a model version: the instant at which its interval ends, and the attempt.

TensorFlow Serving takes the highest number for the latest version, so numbers must order as instants do, whatever the
time zone and however short the interval: fifteen digits, `YYYYMMDDHHMM` in UTC and three for the attempt. JavaScript
reads them exactly, too.

Versions that were pushed before have ten digits, `YYYYMMDD` of the local day and two for the attempt, and keep them.
Each is lower than every number of fifteen digits, so an interval that ends on an earlier day than one of them gets ten
digits, too, whenever it runs again: no number of fifteen digits belongs to an earlier day than one of ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from airtight.errors import TerminalError
from airtight.interval import Interval

SHORTEST = timedelta(minutes=1)
"""Intervals that are shorter would share a number's minute."""
_SCALE, _DAY_SCALE = 1000, 100
_LEAST = 10**14


def stem(version: int) -> int:
    """What all attempts of one interval have in common: their number without the attempt."""
    return version // (_SCALE if version >= _LEAST else _DAY_SCALE)


def stem_for(interval: Interval, zone: str, existing: Sequence[int]) -> int:
    """The stem of an interval's next version.

    Args:
      interval: The data interval.
      zone: IANA time zone of the local day in a number of ten digits.
      existing: The model's versions.

    Returns:
      Twelve digits, or eight where an older interval must stay below versions of ten digits.

    Raises:
      TerminalError: The interval is shorter than a minute.
    """
    if interval.end - interval.start < SHORTEST:
        raise TerminalError(
            "The data interval is too short for a version of its own.",
            expected=f"an interval of {SHORTEST.total_seconds():g} s or more",
            received=str(interval),
            remedy="Give the DAG a longer interval.",
        )
    day = day_stem(interval, zone)
    last_day = max((stem(number) for number in existing if number < _LEAST), default=0)
    return day if day < last_day else int(interval.end.astimezone(UTC).strftime("%Y%m%d%H%M"))


def day_stem(interval: Interval, zone: str) -> int:
    """The stem of an interval's versions of ten digits: `YYYYMMDD` of the local day on which it ends."""
    return int(interval.end.astimezone(ZoneInfo(zone)).strftime("%Y%m%d"))


def next_attempt(stem_: int, existing: Sequence[int]) -> int:
    """The number of the next attempt of an interval.

    Raises:
      TerminalError: None is left.
    """
    scale = _SCALE if stem_ >= _LEAST // _SCALE else _DAY_SCALE
    number = max((version for version in existing if stem(version) == stem_), default=stem_ * scale) + 1
    if stem(number) != stem_:
        raise TerminalError(
            f"There is no version left for the interval {stem_}.",
            expected=f"fewer than {scale} attempts for one interval",
            received=f"version {number - 1}",
            remedy="Remove versions of that interval that are no longer needed.",
        )
    return number


def end_of(version: int) -> datetime | None:
    """The end of a version's interval; None where its number does not tell it."""
    if version < _LEAST:
        return None
    try:
        return datetime.strptime(str(stem(version)), "%Y%m%d%H%M").replace(tzinfo=UTC)
    except ValueError:
        return None
