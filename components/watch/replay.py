"""Replays of policies over a `LossMatrix`, and the schedules beside which they stand: oracle, fixed and random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from airtight.errors import TerminalError
from airtight.watch.brakes import Brakes
from airtight.watch.history import ALL, Fit, History, Period
from airtight.watch.policies import Decision, Policy
from components.watch.loss_matrix import LossMatrix


@dataclass(frozen=True)
class Schedule:
    """When models are fitted, and what that comes to.

    Args:
      name: Of the policy, or of the kind of schedule.
      fits: In order, the first one at period 0.
      loss: Mean loss of a row over all periods.
      decisions: Of a policy, by the number of the period, wherever one could be made.
    """

    name: str
    fits: tuple[Fit, ...]
    loss: float
    decisions: dict[int, Decision] = field(default_factory=dict)


class Replays:
    """What policies and schedules come to over one matrix.

    Args:
      matrix: The losses.
      equal: Whether all periods count the same; otherwise their rows do.
    """

    def __init__(self, matrix: LossMatrix, *, equal: bool = False) -> None:
        self.matrix = matrix
        rows = np.ones(len(matrix.rows)) if equal else matrix.rows.astype(np.float64)
        self._weights = rows / rows.sum()
        self._places = {int(period): place for place, period in enumerate(matrix.fit_at)}
        self._length = {int(length): place for place, length in enumerate(matrix.lengths)}
        weighted = np.where(matrix.serves, matrix.loss, 0.0) * self._weights
        self._sums = np.concatenate([np.zeros((*weighted.shape[:2], 1)), weighted.cumsum(axis=2)], axis=2)

    def policy(self, name: str, policy: Policy, brakes: Brakes, cost: float = 0.0) -> Schedule:
        """Asks a policy at each period at which the matrix has a fit, with what was known when the period began.

        Raises:
          TerminalError: It wants a length of history that the matrix does not have.
        """
        matrix, fits, decisions = self.matrix, [Fit(0)], {}
        periods: list[Period] = []
        for number in range(len(matrix.rows)):
            if number and number in self._places:
                decision = brakes.decide(policy, History(tuple(periods), tuple(fits), cost))
                decisions[number] = decision
                if decision.action == "retrain":
                    self._check(name, decision)
                    fits.append(Fit(number, decision.length))
            periods.append(self._period(number, fits))
        return Schedule(name, tuple(fits), self.loss(fits), decisions)

    def loss(self, fits: Sequence[Fit]) -> float:
        """Mean loss of a row where these fits serve."""
        ends = [*(fit.period for fit in fits[1:]), len(self.matrix.rows)]
        return float(sum(self._served(fit, end) for fit, end in zip(fits, ends, strict=True)))

    def fixed(self, step: int) -> Schedule:
        """A fit at each `step`-th period at which there can be one."""
        fits = [Fit(int(period)) for period in self.matrix.fit_at[::step]]
        return Schedule(f"every {step}", tuple(fits), self.loss(fits))

    def oracle(self, most: int) -> list[Schedule]:
        """The best schedules of 1 to `most` fits, known only afterwards; by dynamic programming."""
        ends = [*self.matrix.fit_at.tolist(), len(self.matrix.rows)]
        count = len(ends) - 1
        # Of a fit that serves until an end: the least loss over all lengths of history, [fits, ends].
        served = self._sums[:, :, ends] - self._sums[:, np.arange(count), self.matrix.fit_at][:, :, None]
        lengths, cheapest = served.argmin(axis=0), served.min(axis=0)
        cheapest[np.arange(count)[:, None] >= np.arange(count + 1)] = math.inf
        best, last = np.full(count + 1, math.inf), []
        best[0] = 0.0
        schedules = []
        for number in range(1, min(most, count) + 1):
            totals = best[:-1, None] + cheapest
            last.append(totals.argmin(axis=0))
            best = totals.min(axis=0)
            fits, end = [], count
            for places in reversed(last):
                place = int(places[end])
                fits.append(Fit(ends[place], int(self.matrix.lengths[lengths[place, end]])))
                end = place
            schedules.append(Schedule(f"oracle of {number}", tuple(reversed(fits)), float(best[count])))
        return schedules

    def random(self, count: int) -> float:
        """Mean loss of all schedules of so many fits, all history, the first one at period 0; exact."""
        others, chosen = len(self.matrix.fit_at) - 1, count - 1
        total = math.comb(others, chosen)
        loss = 0.0
        for place, period in enumerate(self.matrix.fit_at.tolist()):
            ends = [*self.matrix.fit_at[place + 1 :].tolist(), len(self.matrix.rows)]
            start = period
            for passed, end in enumerate(ends):
                # The fit serves from start to end where it is chosen and the `passed` fits after it are not.
                left = others - passed - (place > 0)
                wanted = chosen - (place > 0)
                share = math.comb(left, wanted) / total if 0 <= wanted <= left else 0.0
                loss += share * float(self._sums[0, place, end] - self._sums[0, place, start])
                start = end
        return loss

    def _check(self, name: str, decision: Decision) -> None:
        if decision.length not in self._length:
            raise TerminalError(
                f"The policy {name} wants a model that the matrix does not have.",
                expected=f"lengths of history among {', '.join(map(str, self._length))} periods (0 is all)",
                received=f"{decision.length}",
                remedy="Choose another length, or write a matrix that has it.",
            )

    def _served(self, fit: Fit, end: int) -> float:
        sums = self._sums[self._length[fit.length], self._places[fit.period]]
        return float(sums[end] - sums[fit.period])

    def _period(self, number: int, fits: Sequence[Fit]) -> Period:
        def lost(fit: Fit) -> float:
            return float(self.matrix.loss[self._length[fit.length], self._places[fit.period], number])

        newest = self.matrix.newest(number)
        challengers = {length: float(self.matrix.loss[place, newest, number]) for length, place in self._length.items()}
        former = lost(fits[-2]) if len(fits) > 1 else None
        return Period(
            str(self.matrix.starts[number]), int(self.matrix.rows[number]), lost(fits[-1]), challengers, former
        )


def fits_in_words(fits: Sequence[Fit]) -> str:
    """The fits in words: number of the period, and the length of history where it is not all."""
    return ", ".join(str(fit.period) + (f" (last {fit.length})" if fit.length != ALL else "") for fit in fits)
