"""Brakes around every policy: mended data first, one training at a time, cooldowns that double, a budget of fits."""

from __future__ import annotations

from dataclasses import dataclass

from airtight.errors import TerminalError
from airtight.watch.history import Fit, History
from airtight.watch.policies import Decision, Policy


@dataclass(frozen=True)
class Brakes:
    """Limits of a policy.

    Args:
      cooldown: Periods from a fit to the next one at least; doubled for each of the last fits in a row that did not
        help, and back to this after one that did.
      longest: Periods beyond which no cooldown grows.
      budget: Fits, the first one included, that there may be; 0 sets no limit.
      budget_periods: The budget holds for as many last periods; 0 for all.

    Raises:
      TerminalError: A limit is none.
    """

    cooldown: int = 1
    longest: int = 64
    budget: int = 0
    budget_periods: int = 0

    def __post_init__(self) -> None:
        if self.cooldown < 1 or self.longest < self.cooldown or self.budget < 0 or self.budget_periods < 0:
            raise TerminalError(
                "The brakes do not hold together.",
                expected="a cooldown of at least 1 that is no longer than the longest, and a budget of at least 0",
                received=str(self),
                remedy="Correct the settings of the policy's brakes.",
            )

    def decide(self, policy: Policy, history: History) -> Decision:
        """What the policy decides, where no brake holds it."""
        if history.faults:
            return Decision("fix_data", f"training is blocked until the data are mended: {'; '.join(history.faults)}")
        if history.training:
            return Decision("keep", "a training is under way")
        if self.budget and (spent := self._spent(history)) >= self.budget:
            return Decision("keep", f"the budget of {self.budget} fits is spent ({spent})")
        age, wait = history.now - history.fits[-1].period, self.wait(history)
        if age < wait:
            return Decision("keep", f"the last fit is {age} periods old, and the cooldown lasts {wait}")
        return policy(history)

    def wait(self, history: History) -> int:
        """The cooldown now, in periods."""
        in_vain = 0
        for number in range(len(history.fits) - 1, 0, -1):
            if helped(history, number) is not False:
                break
            in_vain += 1
        return self.after(in_vain)

    def after(self, in_vain: int) -> int:
        """The cooldown after so many fits in a row that did not help, in periods."""
        return min(self.longest, self.cooldown * 2**in_vain)

    def _spent(self, history: History) -> int:
        first = history.now - self.budget_periods if self.budget_periods else 0
        return sum(fit.period >= first for fit in history.fits)


def helped(history: History, number: int) -> bool | None:
    """Whether a fit's model has lost less than the model before it, on the rows that it served.

    Args:
      history: What is known.
      number: Place of the fit in `history.fits`.

    Returns:
      False also where the gates refused it; None where no period tells yet.
    """
    fit = history.fits[number]
    if not fit.accepted:
        return False
    saved = [
        (period.former - period.served) * period.rows
        for period in history.periods[fit.period : _end(history, number)]
        if period.former is not None
    ]
    return sum(saved) > 0 if saved else None


def _end(history: History, number: int) -> int:
    """Number of the first period that a later model serves."""
    later: list[Fit] = [fit for fit in history.fits[number + 1 :] if fit.accepted]
    return later[0].period if later else history.now
