"""What a retraining policy knows: losses up to now of the served model and of others on the same rows, and the fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from airtight.errors import TerminalError

ALL = 0
"""Length of the history of a model that learns from all periods."""


@dataclass(frozen=True)
class Period:
    """A period, such as a day or a month, whose labels are known.

    Args:
      start: ISO 8601.
      rows: Labelled rows, at least 1.
      served: Mean loss of the served model on them.
      challengers: Mean loss on the same rows of models fitted on what was known when the period began, by the length of
        their history in periods; ALL is all of it.
      former: Mean loss on the same rows of the model that was served before the served one; None where there is none,
        or nobody asked it.
    """

    start: str
    rows: int
    served: float
    challengers: Mapping[int, float]
    former: float | None = None

    def regret(self, length: int = ALL) -> float:
        """How much more the served model loses on a row than the challenger; 0 where there is no challenger."""
        return self.served - self.challengers.get(length, self.served)


@dataclass(frozen=True)
class Fit:
    """A training.

    Args:
      period: Number of the first period that its model serves, or would have served.
      length: Of the history that it learned from, in periods; ALL is all of it.
      accepted: Whether the gates let its model serve.
    """

    period: int
    length: int = ALL
    accepted: bool = True


@dataclass(frozen=True)
class History:
    """Everything that was known when a period began, and nothing that became known later.

    Args:
      periods: All earlier periods, in order.
      fits: All trainings, in order; the first one made the first served model.
      cost: What a training costs, as the sum of losses per row and period that it must save to pay.
      training: Whether a training is under way.
      faults: Hard faults of the data that are open, in words.
    """

    periods: tuple[Period, ...]
    fits: tuple[Fit, ...]
    cost: float = 0.0
    training: bool = False
    faults: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.fits or not self.fits[0].accepted:
            raise TerminalError(
                "A history has no served model.",
                expected="a first fit that was accepted",
                received=f"fits {self.fits}",
                remedy="Train and serve a first model before its policy is asked.",
            )

    @property
    def now(self) -> int:
        """Number of the period that begins."""
        return len(self.periods)

    @property
    def served(self) -> Fit:
        """The fit whose model serves."""
        return [fit for fit in self.fits if fit.accepted][-1]

    @property
    def since_fit(self) -> tuple[Period, ...]:
        """The periods that the served model has served."""
        return self.periods[self.served.period :]

    @property
    def rows(self) -> float:
        """Mean number of rows of a period; 1 before there is one."""
        return sum(period.rows for period in self.periods) / self.now if self.periods else 1.0
