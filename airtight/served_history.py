"""Which versions of a model had served by an instant of data time: the one meaning of "champion" (adr/0025).

Two records say that a version took over (`took_over`): its push, and a promotion by a person or by a release.
A version that was only registered, or that a release took back, has neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_NEXT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Takeover:
    """A version began to answer the requests.

    Args:
      at: In data time. Of a push the end of its interval; of a promotion the end of the latest interval of which a
        version was registered then: a run for an earlier interval knows nothing of it.
      order: Which of several at one instant was later: the artifact's id.
      version: The version.
      end: End of the version's interval.
    """

    at: datetime
    order: int
    version: int
    end: datetime

    def was_taken_back(self, takeovers: Iterable[Takeover]) -> bool:
        """Whether a version of an earlier interval took over afterwards, of all takeovers of a model."""
        return any(other.end < self.end and _place(other) > _place(self) for other in takeovers)


def takeover_of_push(properties: Mapping[str, object], order: int) -> Takeover | None:
    """What a push says; None where its version did not take over, as far as this push knows.

    Args:
      properties: Of the `PushedModel`. Those that were written before there was `took_over` go by `awaits_release`.
      order: The artifact's id.
    """
    took_over = properties.get("took_over", not properties.get("awaits_release"))
    if not properties.get("pushed") or not took_over or not (end := _instant(properties.get("interval_end"))):
        return None
    return Takeover(end, order, int(str(properties.get("version") or 0)), end)


def takeovers_of_pushes(pushes: Iterable[tuple[int, Mapping[str, object]]]) -> list[Takeover]:
    """What all pushes of some versions say together.

    Whether and when a version took over, its first push says. A later push of the same files cannot: by then another
    version serves, or a promotion that has a record of its own brought this one back. It counts only where it put the
    version in the place of what a release had left (`overridden`).

    Args:
      pushes: The artifacts' ids and the properties of each `PushedModel`, all those of a version.
    """
    takeovers: list[Takeover] = []
    pushed_before = set()
    for order, properties in sorted(pushes, key=lambda push: push[0]):
        if not properties.get("pushed"):
            continue
        # A number whose files were taken back is pushed again with other files.
        files = properties.get("version"), properties.get("model_digest")
        takeover = takeover_of_push(properties, order)
        if takeover and (files not in pushed_before or properties.get("overridden")):
            takeovers.append(takeover)
        pushed_before.add(files)
    return takeovers


def takeover_of_promotion(properties: Mapping[str, object], order: int) -> Takeover | None:
    """What a promotion says; None where its version did not take over, or no interval of it is known.

    Args:
      properties: Of the `Promotion`. Those that were written before there were `took_over` and `as_of` go by `changed`,
        and count at their version's interval.
      order: The artifact's id.
    """
    end = _instant(properties.get("interval_end"))
    if not properties.get("took_over", properties.get("changed")) or end is None:
        return None
    at = _instant(properties.get("as_of")) or end
    return Takeover(max(at, end), order, int(str(properties.get("to_version") or 0)), end)


def versions_that_served(
    pushes: Iterable[tuple[int, Mapping[str, object]]], promotions: Iterable[tuple[int, Mapping[str, object]]]
) -> set[int]:
    """The versions that answered requests at any time, taken back since or not.

    Args:
      pushes: The artifacts' ids and the properties of each `PushedModel`, all those of a version.
      promotions: Likewise of each `Promotion` of the model.
    """
    promoted = (takeover_of_promotion(properties, order) for order, properties in promotions)
    return {takeover.version for takeover in (*takeovers_of_pushes(pushes), *promoted) if takeover}


def served(
    pushes: Callable[[datetime], Iterable[Takeover]], promotions: Sequence[Takeover], instant: datetime, count: int = 1
) -> list[Takeover]:
    """The version that served last by an instant, and those that served before it.

    A version that takes over ends the time of all versions of its own interval and of later ones. So whoever reads the
    records backwards meets the champions in the order of their age: each is of an earlier interval than the one before.

    Args:
      pushes: Gives the pushes of the latest interval that ended by an instant.
      promotions: All of them, or the newest that were known at `instant`.
      instant: In data time, such as the start of a run's interval.
      count: How many versions are wanted.

    Returns:
      At most so many, the champion first.
    """
    champions: list[Takeover] = []
    latest_end, promotions = instant, [promotion for promotion in promotions if promotion.at <= instant]
    while len(champions) < count:
        # Of several attempts of one interval the highest version is the one that serves.
        last_push = max(pushes(latest_end), key=lambda push: (push.version, push.order), default=None)
        last = max((*promotions, *filter(None, [last_push])), key=_place, default=None)
        if last is None:
            break
        champions.append(last)
        latest_end = last.end - _NEXT
        promotions = [p for p in promotions if p.end <= latest_end and _place(p) < _place(last)]
    return champions


def latest_of(pushes: Sequence[Takeover]) -> Callable[[datetime], list[Takeover]]:
    """What `served` asks of pushes, of pushes that are all at hand."""

    def latest(instant: datetime) -> list[Takeover]:
        end = max((push.end for push in pushes if push.end <= instant), default=None)
        return [push for push in pushes if push.end == end]

    return latest


def _place(takeover: Takeover) -> tuple[datetime, int]:
    return takeover.at, takeover.order


def _instant(text: object) -> datetime | None:
    try:
        instant = datetime.fromisoformat(str(text or ""))
    except ValueError:
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
