"""Candidate against stable version, one figure at a time: the difference, its bounds, and the requests still needed.

The unit is the request: a batch of a thousand rows is one. In split mode it is the caller, as a caller keeps its
version: the spread is that between groups of callers. In shadow mode both versions are asked, so pairs are compared.

Bounds hold at every look (`airtight.rollout.sequential`). A share of requests in canary mode is bounded without
assumptions: requests are drawn at random with a known probability p, so the mean over all requests of the outcome,
weighted by 1 / p where the candidate was asked and by -1 / (1 - p) where it was not, is the difference of both shares,
also while both drift. Means, and all that is compared by callers, are bounded as by the central limit theorem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from airtight.rollout.arm_metrics import Arm, Counts, Sums
from airtight.rollout.sequential import Bets, normal_quantile
from airtight.rollout.state import SHADOW, SPLIT

ALPHA = 0.05
"""The error of a release: of promoting a candidate that is as much worse as a margin allows, and, over all rules
together, of ending early a release of one that is not."""
LUCK = 1.28
"""Standard errors of bad luck that needed requests allow for: 90 of 100 candidates as good as stable have less."""
MIN_ANSWERS = 50
"""Requests of each version before the central limit theorem is relied on,"""
MIN_CELLS = 20
"""and groups of callers."""
_PLANNED = 2.78 + LUCK
"""Margin in standard errors at which a comparison of means is planned to be decided."""
_MOST_REQUESTS = 1e9
_FLOOR = 1e-12

Count = Callable[[Arm], float]


@dataclass(frozen=True)
class Comparison:
    """One figure of both versions.

    Args:
      name: What is compared.
      margin: By so much the candidate's may be worse, or other where `two_sided`.
      stable: The stable version's; None where there is none yet.
      candidate: The candidate's.
      difference: The candidate's less the stable version's.
      lower: The difference is not below, at the error of ending early.
      upper: And not above, at the error of promoting; where `two_sided`, the farthest from 0 that it may be.
      holds: It is within the margin, at the error of promoting.
      worse: It is outside, at the error of ending early.
      more: Requests to both versions together until it is within, if the candidate is like the stable version; None
        where that is unknown or out of reach.
      decides: Whether the release depends on it.
      two_sided: Whether other is as bad as worse.
    """

    name: str
    margin: float
    stable: float | None = None
    candidate: float | None = None
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    holds: bool = False
    worse: bool = False
    more: float | None = None
    decides: bool = True
    two_sided: bool = False

    @property
    def is_outside(self) -> bool:
        """Whether the difference itself, whatever its bounds, is over the margin."""
        return (
            self.difference is not None and (abs(self.difference) if self.two_sided else self.difference) > self.margin
        )


@dataclass(frozen=True)
class Family:
    """What the comparisons of one release share.

    Args:
      counts: What the router counted.
      early: The error of each comparison of ending early.
      known: What the stable version did before the release, for the requests that are needed.
      detail: Whether bounds of shares and needed requests are worked out, which takes ten times as long as deciding.
    """

    counts: Counts
    early: float
    known: Arm = field(default_factory=Arm)
    detail: bool = True

    def share(self, name: str, count: Count, margin: float, pairs: tuple[float, float] | None = None) -> Comparison:
        """Compares a share of requests.

        Args:
          name: Of the outcome.
          count: How many requests of an arm came to it.
          margin: Of the difference of shares, over 0.
          pairs: In shadow mode, how many requests came to it with the candidate alone, and with the stable version
            alone. Where only totals are known, these do: the evidence is weaker than it could be.
        """
        stable, candidate = self.counts.stable, self.counts.candidate
        bad = count(stable), count(candidate)
        shares = (_ratio(bad[0], stable.assigned), _ratio(bad[1], candidate.assigned))
        if self.counts.mode == SPLIT:
            return self.mean(name, lambda arm: Sums(arm.assigned, count(arm), count(arm)), margin)
        # Where nothing is known yet, one in a hundred.
        rate = (bad[0] + count(self.known) + 0.1) / (stable.assigned + self.known.assigned + 10)
        if self.counts.mode == SHADOW:
            only, assigned = pairs or (bad[1], bad[0]), candidate.assigned
            # Until pairs tell how often one version alone comes to it, that is as often as the stable version does.
            apart = (sum(only) / 2 + 10 * rate) / (assigned + 10)
            more_of = (apart, apart)
            weights, per_request = (1.0, -1.0), max(self.counts.share, _FLOOR)
        else:
            p = min(max(self.counts.share, _FLOOR), 1 - 1e-9)
            only, assigned, more_of = (bad[1], bad[0]), stable.assigned + candidate.assigned, (p * rate, (1 - p) * rate)
            weights, per_request = (1 / p, -1 / (1 - p)), 1.0
            if not (stable.assigned and candidate.assigned) and assigned:
                return Comparison(name, margin, *shares)

        def bets(more: float = 0.0) -> Bets:
            """With so many further observations, of a candidate like the stable version with bad luck."""
            expected = [more * of for of in more_of]
            worse, better = only[0] + expected[0] + LUCK * math.sqrt(expected[0]), only[1] + expected[1]
            values = ((weights[0], worse), (weights[1], better), (0.0, assigned + more - worse - better))
            return Bets(values, weights[1], weights[0])

        needed, now = math.log(1 / ALPHA), bets()
        compared = Comparison(
            name,
            margin,
            *shares,
            difference=None if shares[0] is None or shares[1] is None else shares[1] - shares[0],
            holds=now.below(margin) >= needed,
            worse=now.above(margin) >= math.log(1 / self.early),
        )
        if not self.detail:
            return compared
        more = requests_until(lambda further: bets(further).below(margin) >= needed)
        return replace(
            compared,
            lower=now.lower(self.early) if assigned else None,
            upper=now.upper(ALPHA) if assigned else None,
            more=None if more is None else more / per_request,
        )

    def mean(self, name: str, sums: Callable[[Arm], Sums], margin: float, *, two_sided: bool = False) -> Comparison:
        """Compares the mean of a value of each request; callers' groups make the spread where there are any."""
        arms = self.counts.stable, self.counts.candidate
        seen = [sums(arm) for arm in arms]
        cells = [[cell for cell in map(sums, arm.cells) if cell.count] for arm in arms]
        means = (seen[0].mean, seen[1].mean)
        compared = Comparison(name, margin, *means, two_sided=two_sided)
        enough = all(total.count >= MIN_ANSWERS for total in seen)
        if (
            means[0] is None
            or means[1] is None
            or not enough
            or any(arm.cells and len(own) < MIN_CELLS for arm, own in zip(arms, cells, strict=True))
        ):
            return compared
        variance = sum(map(_variance, seen, cells))
        if not math.isfinite(variance):
            return Comparison(name, margin, two_sided=two_sided)
        requests = sum(arm.assigned for arm in arms)
        bounded = self.bounded(name, means[1] - means[0], variance, requests, margin, two_sided=two_sided)
        return replace(bounded, stable=means[0], candidate=means[1])

    def bounded(
        self,
        name: str,
        difference: float,
        variance: float,
        requests: float,
        margin: float,
        *,
        two_sided: bool = False,
        error: float | None = None,
    ) -> Comparison:
        """Bounds a difference of which the variance is known.

        Args:
          name: What is compared.
          difference: As it was observed.
          variance: Of `difference`.
          requests: From which it comes; with twice as many its variance is half as large.
          margin: Over 0.
          two_sided: Whether other is as bad as worse.
          error: Of ending early; `early` where None.
        """
        early = (self.early if error is None else error) / (1 + two_sided)
        planned = margin / _PLANNED

        def reach(spread: float, alpha: float) -> float:
            return spread * normal_quantile((planned / spread) ** 2, alpha)

        spread = max(math.sqrt(variance), _FLOOR)
        size = abs(difference) if two_sided else difference
        upper, lower = size + reach(spread, ALPHA), size - reach(spread, early)

        def would_hold(more: float) -> bool:
            kept = requests / (requests + more)
            later = spread * math.sqrt(kept)
            return size * kept + LUCK * later * math.sqrt(1 - kept) + reach(later, ALPHA) <= margin

        return Comparison(
            name,
            margin,
            difference=difference,
            lower=lower,
            upper=upper,
            holds=upper <= margin,
            worse=lower > margin,
            more=requests_until(would_hold) if self.detail else None,
            two_sided=two_sided,
        )

    def distribution(self, name: str, margin: float) -> Comparison:
        """Compares how answers are distributed: the largest difference of the shares up to any kind of number."""
        # Whichever of many edges is over the margin ends the release, so each has its part of the error.
        edges = range(1, len(self.counts.stable.kinds))
        quick = replace(self, early=self.early / len(edges), detail=False)
        parts = [quick.mean(name, _up_to(edge), margin, two_sided=True) for edge in edges]
        if parts[0].difference is None:
            return Comparison(name, margin, two_sided=True)
        farthest = max(range(len(parts)), key=lambda place: parts[place].upper or 0.0)
        return replace(
            self.mean(name, _up_to(edges[farthest]), margin, two_sided=True),
            stable=None,
            candidate=None,
            lower=max(part.lower or 0.0 for part in parts),
            holds=all(part.holds for part in parts),
            worse=any(part.worse for part in parts),
        )

    def spread(self, name: str) -> Comparison:
        """Compares in canary mode how requests were spread with the candidate's share of them.

        Where the router loses sight of requests, or another spreads them, no other comparison is to be relied on.
        """
        p, stable, candidate = self.counts.share, self.counts.stable.assigned, self.counts.candidate.assigned
        bets = Bets(((1 - p, candidate), (-p, stable)), -1.0, 1.0)
        apart = max(bets.above(0.0), bets.below(0.0)) > math.log(2 / 0.001)
        seen = stable + candidate
        return Comparison(name, p, p, candidate / seen if seen else None, holds=not apart, more=0.0)


def requests_until(holds: Callable[[float], bool]) -> float | None:
    """The least number of further requests, to 1 %, with which something holds; None beyond a thousand million."""
    if holds(0.0):
        return 0.0
    high = 16.0
    while not holds(high):
        high *= 2
        if high > _MOST_REQUESTS:
            return None
    low = high / 2
    while high - low > high / 100:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _ratio(part: float, of: float) -> float | None:
    return part / of if of else None


def _up_to(edge: int) -> Callable[[Arm], Sums]:
    """The share of an answer's numbers of the first kinds; its square is at most itself, which makes bounds wide."""

    def sums(arm: Arm) -> Sums:
        total = sum(arm.kinds[:edge])
        return Sums(round(sum(arm.kinds)), total, total)

    return sums


def _variance(seen: Sums, cells: Sequence[Sums]) -> float:
    """Of an arm's mean: the larger one of that of requests and that of groups of callers.

    Shares of 0 and 1 get half a case more, as no case yet is not never.
    """
    mean = seen.total / seen.count
    if seen.squares == seen.total:
        smoothed = (seen.total + 0.5) / (seen.count + 1)
        variance = smoothed * (1 - smoothed) / seen.count
    else:
        variance = seen.variance_of_mean
    if len(cells) > 1:
        apart = sum((cell.total - mean * cell.count) ** 2 for cell in cells)
        variance = max(variance, apart / seen.count**2 * len(cells) / (len(cells) - 1))
    return variance
