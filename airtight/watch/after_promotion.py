"""Whether a version that took over loses more than the former champion on the same rows: its first ripe days decide.

After each ripe day a confidence sequence over the days bounds the mean difference of the losses, so that it may be
looked at every day. Its standard error is the larger one of two: that from blocks of rows within the days, and, as
rows of a day share its weather, that from day to day. Few days show little of the latter, and it is widened for that
as Student's t is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from airtight.errors import TerminalError
from airtight.rollout.sequential import normal_quantile, student_ratio

WATCHING, KEPT, TAKE_BACK, UNDECIDED = OUTCOMES = ("watching", "kept", "take_back", "undecided")
"""More days are to come; its days are over and it stays; it loses surely more; its time is over without enough days."""
LEAST_DAYS = 3
"""With fewer days nothing is taken back: how days differ is not known."""


@dataclass(frozen=True)
class PairedDay:
    """Both versions on the same labelled rows of a ripe day.

    Args:
      day: Local, ISO 8601.
      rows: How many both answered with predictions of the task's; a day of 0 rows has no difference.
      difference: Mean loss of the version that took over less that of the former champion.
      variance: Of that mean, by blocks of rows of the day; None where it is not known.
      wrong: Further rows on which what the version that took over answered, and it alone, was none of the task's, such
        as NaN.
      former_wrong: Likewise of the former champion alone.
    """

    day: str
    rows: int
    difference: float
    variance: float | None
    wrong: int = 0
    former_wrong: int = 0

    @property
    def has_fault(self) -> bool:
        """Whether the version answered rows wrongly that the former champion answered rightly, and not by chance."""
        excess = self.wrong - self.former_wrong
        return excess > 0 and (not self.former_wrong or excess > 2 * math.sqrt(self.wrong + self.former_wrong))


@dataclass(frozen=True)
class Settings:
    """How long and how surely.

    Args:
      days: Ripe days with pairs after which the version stays; at least LEAST_DAYS.
      error: Chance that a version that is as good as the former champion is ever taken back.
      margin: By how much it may lose more, in units of the loss.
      longest_days: Days after the promotion after which nobody waits any longer.

    Raises:
      TerminalError: A setting that cannot be used.
    """

    days: int = 7
    error: float = 0.05
    margin: float = 0.0
    longest_days: int = 60

    def __post_init__(self) -> None:
        if self.days < LEAST_DAYS or not 0 < self.error <= 0.5 or self.margin < 0 or self.longest_days < self.days:  # noqa: PLR2004
            raise TerminalError(
                "The settings of the days after a promotion cannot be used.",
                expected=f"at least {LEAST_DAYS} days, an error over 0 and up to .5, a margin of 0 or more, and no "
                "fewer longest_days than days",
                received=str(self),
                remedy="Correct them.",
            )


@dataclass(frozen=True)
class Standing:
    """How a promotion stands.

    Args:
      outcome: One of OUTCOMES.
      reason: In a sentence.
      days: Ripe days that decided.
      rows: Rows of them.
      difference: Mean loss of the version less that of the former champion; NaN of no rows.
      lower: What the true mean surely exceeds, at every look; -inf where nothing is known.
      decided_on: The day of the decision; empty while there is none.
      words: Of the reason what the comparison came to, where it came to something.
    """

    outcome: str
    reason: str
    days: int
    rows: int
    difference: float
    lower: float
    decided_on: str = ""
    words: str = ""


def judge(
    pairs: Sequence[PairedDay], age_days: int, settings: Settings, metric: str = "loss", unit: str = "row"
) -> Standing:
    """Looks at the ripe days since a promotion, one after the other, as daily runs would have.

    A version that answers what is none of the task's, where the former champion does not, is taken back on the first
    such day: that is a fault, and no difference of losses.

    Args:
      pairs: Ripe days with rows of both versions, in any order; those beyond `settings.days` do not count.
      age_days: Days since the version took over.
      settings: How long and how surely.
      metric: Whose losses they are, for the reason.
      unit: What a row is, for the reason.
    """
    seen: list[PairedDay] = []
    standing = Standing(WATCHING, "No ripe day has rows of both versions yet.", 0, 0, math.nan, -math.inf)
    for pair in sorted(pairs, key=lambda pair: pair.day):
        if len(seen) == settings.days:
            break
        if pair.has_fault:
            others = f", but for {pair.former_wrong:,}" if pair.former_wrong else ""
            words = (
                f"on {pair.day} {pair.wrong:,} of its answers were no predictions, such as NaN, where those of the "
                f"former champion were{others}."
            )
            return Standing(TAKE_BACK, f"Taken back: {words}", *_figures(standing), pair.day, words)
        if not pair.rows:
            continue
        seen.append(pair)
        count = len(seen)
        mean, lower = bound(seen, settings)
        rows = sum(of_day.rows for of_day in seen)
        words = (
            f"over {count} ripe days and {rows:,} {unit}s it loses {mean:+.4g} a {unit} ({metric}) against the former "
            f"champion, surely more than {lower:+.4g}"
        )
        if left_out := sum(of_day.wrong + of_day.former_wrong for of_day in seen):
            words += f" ({left_out:,} more, of which one of them made no prediction, are left out)"
        words += "."
        standing = Standing(WATCHING, f"Watched: {words}", count, rows, mean, lower, words=words)
        if count >= LEAST_DAYS and lower > settings.margin:
            return Standing(TAKE_BACK, f"Taken back: {words}", *_figures(standing), pair.day, words)
    if standing.days == settings.days:
        return Standing(KEPT, f"Kept: {standing.words}", *_figures(standing), seen[-1].day, standing.words)
    if age_days >= settings.longest_days:
        reason = (
            f"Not enough data: {standing.days} of {settings.days} ripe days with rows of both versions in {age_days} "
            "days. It stays."
        )
        return Standing(UNDECIDED, reason, *_figures(standing))
    return standing


def bound(pairs: Sequence[PairedDay], settings: Settings) -> tuple[float, float]:
    """Mean difference over the rows of some days, and the bound that it exceeds at every look.

    Args:
      pairs: At least one day.
      settings: The error, and the days for which the bound is tightest.
    """
    rows, count = sum(pair.rows for pair in pairs), len(pairs)
    mean = sum(pair.rows * pair.difference for pair in pairs) / rows
    if count < LEAST_DAYS:
        return mean, -math.inf
    freedom = count - 1
    apart = sum((pair.rows * (pair.difference - mean)) ** 2 for pair in pairs) / rows**2 * count / freedom
    within = sum(pair.rows**2 * (pair.variance or 0.0) for pair in pairs) / rows**2
    error = max(math.sqrt(within), math.sqrt(apart) * student_ratio(freedom))
    return mean, mean - normal_quantile(count / settings.days, settings.error) * error


def _figures(standing: Standing) -> tuple[int, int, float, float]:
    return standing.days, standing.rows, standing.difference, standing.lower
