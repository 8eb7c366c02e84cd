"""Bounds that hold at every look: confidence sequences for means, from sums alone.

A fixed-size test that is looked at every few seconds errs far more often than it states. A confidence sequence covers
the true mean at all times at once with probability 1 - alpha, so whoever looks may stop at any look.

- `Bets` bounds the mean of bounded values, without assumptions on their distribution and also where it drifts: the
  wealth of a gambler who bets against a mean is a martingale under that mean, and by Ville's inequality reaches
  1 / alpha with probability alpha at most. Waudby-Smith and Ramdas, "Estimating means of bounded random variables by
  betting", Journal of the Royal Statistical Society B 86 (2024), with a mixture of constant bets (section 4.5, hedged).
- `normal_quantile` widens an estimate's standard error: Robbins' normal mixture, one-sided, in the form of Howard,
  Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals of
  Statistics 49 (2021), used with an estimated variance as Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas do in
  "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52 (2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LADDER = tuple(0.95 * 1.6**-rung for rung in range(9))
"""Bets as shares of the largest that cannot ruin: which is best depends on rates that nobody knows before."""
_STEPS = 40
"""Halvings of the interval in which a bound lies: to 2e-12."""
_TUNING = 0.13
"""Of the normal mixture: tightest where the information is what was planned."""


@dataclass(frozen=True)
class Bets:
    """Bets on the mean of values that lie in a known range; means lie between -1 and 1.

    Args:
      values: Pairs of a value and how often it was seen. A count may be a sum of shares, or negative, where that makes
        the evidence weaker than the true values would (log is concave).
      least: The least value that is possible, below 0.
      most: The largest, over 0.
    """

    values: Sequence[tuple[float, float]]
    least: float
    most: float

    def below(self, mean: float) -> float:
        """Log evidence that the true mean lies below `mean`: log(1 / alpha) refutes that it does not."""
        return self._wealth([-share / self.most for share in _LADDER], mean)

    def above(self, mean: float) -> float:
        """Log evidence that the true mean lies above `mean`."""
        return self._wealth([-share / self.least for share in _LADDER], mean)

    def upper(self, alpha: float) -> float:
        """The least mean that is refuted by `below`; 1 where none is."""
        return -_largest(lambda mean: self.below(-mean) >= -math.log(alpha))

    def lower(self, alpha: float) -> float:
        """The largest mean that is refuted by `above`; -1 where none is."""
        return _largest(lambda mean: self.above(mean) >= -math.log(alpha))

    def _wealth(self, bets: Sequence[float], mean: float) -> float:
        # A bet that the worst value would ruin is not made. Against means farther off fewer bets are left.
        worst = self.most if bets[0] < 0 else self.least
        logs = [
            sum(count * math.log1p(bet * (value - mean)) for value, count in self.values)
            for bet in bets
            if bet * (worst - mean) > -1
        ]
        if not logs:
            return -math.inf
        largest = max(logs)
        return largest + math.log(sum(math.exp(wealth - largest) for wealth in logs) / len(bets))


def _largest(refuted: Callable[[float], bool]) -> float:
    low, high = -1.0, 1.0
    if not refuted(low):
        return low
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def student_ratio(freedom: int) -> float:
    """How many times Student's 95 % quantile is the normal one, within 4 % from two degrees of freedom on."""
    return 1 + 1.1 / freedom + 0.9 / freedom**2


def normal_quantile(progress: float, alpha: float) -> float:
    """Standard errors between an estimate and its one-sided bound that holds at every look.

    Args:
      progress: The information so far (1 / squared standard error) as a share of the planned one, over 0.
      alpha: The error, 0 to 0.5.
    """
    total = progress + _TUNING
    return math.sqrt(2 * total * math.log(math.sqrt(total / _TUNING) / (2 * alpha) + 1) / progress)
