"""Running totals of a key, minute by minute: a window of any length is the difference of two."""

from __future__ import annotations

from typing import NamedTuple


class Minute(NamedTuple):
    """A minute of a key's totals, which a sorted set holds as its numbers, joined by ":".

    Args:
      minute: Since 1970.
      count: How many events.
      late: How many of them were late.
      minutes: Sum of their delays.
      largest: Greatest delay among them.
      counts: `count` of this minute and of all before it that were there when it was written.
      lates: The same of `late`.
      sums: The same of `minutes`.
    """

    minute: int
    count: int  # type: ignore[assignment]  # It hides the method of tuples.
    late: int
    minutes: int
    largest: int
    counts: int = 0
    lates: int = 0
    sums: int = 0

    @classmethod
    def read(cls, member: str) -> Minute:
        """What a sorted set holds."""
        return cls(*map(int, member.split(":")))

    @property
    def own(self) -> tuple[int, ...]:
        """What it is by itself."""
        return self[:5]

    def after(self, before: Minute | None) -> Minute:
        """The same minute, running on from the one before it."""
        counts, lates, sums = before[5:] if before else (0, 0, 0)
        return self._replace(counts=counts + self.count, lates=lates + self.late, sums=sums + self.minutes)

    def since(self, first: Minute) -> tuple[int, int, int]:
        """(count, late, minutes) from a first minute to this one, both included."""
        return (
            self.counts - first.counts + first.count,
            self.lates - first.lates + first.late,
            self.sums - first.sums + first.minutes,
        )

    def __str__(self) -> str:
        return ":".join(map(str, self))
