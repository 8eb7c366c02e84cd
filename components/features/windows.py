"""Windows over events, declared once: what Spark counts in batch and a stream by the minute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.schema import Feature

_DAYS_FROM_HOURS = 48


@dataclass(frozen=True)
class EventStream:
    """Events of one kind, as they become known.

    Args:
      name: In the names of features, in the plural.
      known_at: Column of the instant of the event, at which its value is known; null when it never came.
      value: Column of what is measured.
    """

    name: str
    known_at: str
    value: str


@dataclass(frozen=True)
class Group:
    """Events of one stream, told apart by columns that they have.

    A stream keeps their totals by the minute, from which windows of any length are summed (adr/0014).

    Args:
      stream: Which events.
      by: Columns; () for all together.
    """

    stream: EventStream
    by: tuple[str, ...]

    @property
    def name(self) -> str:
        """Such as `orders_shop_product`."""
        return f"{self.stream.name}_{keys_name(self.by)}"


@dataclass(frozen=True)
class Window:
    """Events of one stream that became known in the last hours, told apart by keys that a row has, too.

    Args:
      stream: Which events.
      by: Columns that event and row share; () for all events.
      hours: Length: [instant of the row - hours, instant of the row).
      measures: What is measured of them.
    """

    stream: EventStream
    by: tuple[str, ...]
    hours: int
    measures: tuple[str, ...]

    @property
    def group(self) -> Group:
        """What its totals are summed from."""
        return Group(self.stream, self.by)

    @property
    def length(self) -> str:
        """The length as people say it: 2h, 28d."""
        return f"{self.hours // 24}d" if self.hours >= _DAYS_FROM_HOURS else f"{self.hours}h"

    def feature(self, measure: str) -> str:
        """Name of the feature that holds one measure, such as `orders_count_shop_2h`."""
        return f"{self.stream.name}_{measure}_{keys_name(self.by)}_{self.length}"


def features_of(
    windows: Sequence[Window], words: Mapping[str, tuple[str, str]], everything: str
) -> tuple[Feature, ...]:
    """The features of windows, numbers each.

    Args:
      windows: In order.
      words: What a measure is of the events, and its unit, such as ("number of", "count"), by its name.
      everything: What events without keys have in common, such as "all shops".
    """
    return tuple(
        Feature(
            window.feature(measure),
            "number",
            f"{words[measure][0]} {window.stream.name} known in the last "
            f"{window.length.replace('h', ' h').replace('d', ' days')}, {same(window.by, everything)}",
            words[measure][1],
        )
        for window in windows
        for measure in window.measures
    )


def keys_name(by: Sequence[str]) -> str:
    """The keys in a feature's name."""
    return "_".join(by) or "all"


def same(by: Sequence[str], everything: str) -> str:
    """What the events of a row have in common with it, in words."""
    return f"same {' and '.join(by)}" if by else everything
