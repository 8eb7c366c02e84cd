"""When each version answered the requests, by the clock: what pushes and promotions say together.

`airtight.served_history` tells the same in data time, in which a run for an earlier interval knows nothing of a later
one. By the clock such a run's version is registered, and never answers while a later one is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Event:
    """A push or a promotion.

    Args:
      order: Which of several was later: the artifact's id.
      at: When it was published, ISO 8601, UTC.
      properties: Those of the `PushedModel` or the `Promotion`.
    """

    order: int
    at: str
    properties: Mapping[str, Any]


@dataclass(frozen=True)
class Span:
    """A version answered the requests for a while.

    Args:
      version: The version.
      since: When it began to, ISO 8601, UTC.
      until: When another one did; empty while it serves.
      because: Why it began to, in words.
      ended_by: The version that took its place; 0 while it serves.
    """

    version: int
    since: str
    until: str
    because: str
    ended_by: int = 0


def spans(events: Iterable[Event]) -> list[Span]:
    """The spans of all versions of a model, in their order.

    Args:
      events: All pushes and promotions of the model.
    """
    began: list[tuple[int, str, str]] = []
    for event in sorted(events, key=lambda event: event.order):
        properties, serving = event.properties, began[-1][0] if began else 0
        version, why = _version_of(properties, serving)
        if version and version != serving:
            began.append((version, event.at, why))
    return [
        Span(version, at, until, why, other)
        for (version, at, why), (other, until, _) in pairwise([*began, (0, "", "")])
    ]


def has_effect(promotion: Mapping[str, Any]) -> bool:
    """Whether a promotion put a version before the requests, or ended a release.

    `take_back` writes one each day, whatever it does, which tells of most days that nothing was changed.

    Args:
      promotion: Properties of the `Promotion`.
    """
    return took_over(promotion) or str(promotion.get("approval", "")).startswith("release ")


def took_over(promotion: Mapping[str, Any]) -> bool:
    """Whether a promotion put a version before the requests."""
    return bool(promotion.get("took_over", promotion.get("changed")))


def _version_of(properties: Mapping[str, Any], serving: int) -> tuple[int, str]:
    """The version that an event put before the requests, and why; 0 for none."""
    if "to_version" in properties:
        summary = str(properties.get("summary", ""))
        return (int(properties["to_version"]), summary) if took_over(properties) else (0, "")
    is_served = properties.get("took_over", not properties.get("awaits_release"))
    version = int(properties.get("version") or 0)
    # The highest answers, so that one of an earlier interval is registered only.
    is_put_first = bool(properties.get("pushed")) and bool(is_served) and version > serving
    return (version, str(properties.get("reason", ""))) if is_put_first else (0, "")
