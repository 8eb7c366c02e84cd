"""Policies: functions of a `History` that decide whether to retrain, keep the model, or have the data mended.

A policy is named by `package.module:function`, its parameters as in a URL: `airtight.watch.policies:every?n=3`.
"""

from __future__ import annotations

import functools
import inspect
import json
import urllib.parse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from airtight.errors import TerminalError
from airtight.import_string import load
from airtight.watch.history import ALL, History, Period

Action = Literal["retrain", "keep", "fix_data"]
BEST = "best"
"""As a length of history: the one whose challengers have lost least of late."""
_LATE = 6
"""Periods by which that is decided."""


@dataclass(frozen=True)
class Decision:
    """What a policy decides at the beginning of a period.

    Args:
      action: "retrain"; "keep" the served model; "fix_data", which blocks training until the data are mended.
      reason: One sentence with the figures that decided.
      length: Of the history to learn from, in periods; `history.ALL` is all of it.
    """

    action: Action
    reason: str
    length: int = ALL


Policy = Callable[[History], Decision]


def policy_of(name: str) -> Policy:
    """The policy of a name, with its parameters.

    Raises:
      TerminalError: The name names no function, or it takes no such parameters.
    """
    path, _, query = name.partition("?")
    function = load(path)
    parameters = {key: _value(text) for key, text in urllib.parse.parse_qsl(query, keep_blank_values=True)}
    try:
        inspect.signature(function).bind(None, **parameters)
    except TypeError as error:
        raise TerminalError(
            f"The policy {path} cannot be called so.",
            expected=f"a function of a History, {getattr(function, '__name__', function)}"
            f"{inspect.signature(function) if callable(function) else ''}",
            received=f"{name!r}: {error}",
            remedy="Correct the name or its parameters.",
        ) from error
    return functools.partial(function, **parameters)


def never(history: History) -> Decision:
    """Keeps the first model."""
    return Decision("keep", "this policy never retrains")


def every(history: History, n: int = 1, length: int | str = ALL) -> Decision:
    """Retrains every n periods."""
    age = len(history.since_fit)
    return _decided(age >= n, f"the model has served {age} of {n} periods", length_of(history, length))


def threshold(history: History, limit: float = 0.05, periods: int = 1, length: int | str = ALL) -> Decision:
    """Retrains when the mean regret of the last periods exceeds a share of the challenger's loss.

    Args:
      history: What is known.
      limit: Share of the challenger's loss.
      periods: How many of the last periods count, of those that the model has served.
      length: Of the history of challenger and training, in periods, or BEST.
    """
    length = length_of(history, length)
    last = history.since_fit[-periods:]
    regret = _mean(relative_regret(last, length))
    words = f"the served model loses {regret:+.1%} against the challenger over {len(last)} periods, limit {limit:.1%}"
    return _decided(regret > limit, words, length)


def cusum(history: History, limit: float = 0.05, slack: float = 0.02, length: int | str = ALL) -> Decision:
    """Retrains when the cumulated regret since the fit, less the slack of each period, exceeded a limit (Page 1954).

    Args:
      history: What is known.
      limit: In shares of the challenger's loss, summed over periods.
      slack: Regret of a period that is not worth anything, likewise.
      length: Of the history of challenger and training, in periods, or BEST.
    """
    length, level, highest = length_of(history, length), 0.0, 0.0
    for regret in relative_regret(history.since_fit, length):
        level = max(0.0, level + regret - slack)
        highest = max(highest, level)
    words = f"the cumulated regret of {len(history.since_fit)} periods reached {highest:.1%}, limit {limit:.1%}"
    return _decided(highest > limit, words, length)


def cost_aware(
    history: History, lookahead: float = 1.0, periods: int = 2, cost: float | None = None, length: int | str = ALL
) -> Decision:
    """Retrains when the loss that staleness has cost, and will cost in the next periods, reaches the cost of a fit.

    The cumulative threshold of CARA (Mahadevan and Mathioudakis, "Cost-aware retraining for machine learning",
    Knowledge-Based Systems 293, 2024, arXiv 2310.04216), with two differences: the cost of staleness is the regret that
    was measured against a challenger, not one estimated from distances of the data; and the regret of the last periods
    is expected to last, so that what is known to come need not be lost first.

    Args:
      history: What is known; its `cost` is that of a fit.
      lookahead: For how many periods the regret is expected to last.
      periods: How many of the last periods that regret is the mean of.
      cost: Of a fit, in shares of the loss of the challenger, times periods; takes the place of the history's.
      length: Of the history of challenger and training, in periods, or BEST.
    """
    length = length_of(history, length)
    if cost is None:
        regrets = [period.regret(length) * period.rows / history.rows for period in history.since_fit]
    else:
        regrets = relative_regret(history.since_fit, length)
    price = history.cost if cost is None else cost
    coming = lookahead * max(0.0, _mean(regrets[-periods:]))
    lost = sum(regrets)
    words = f"staleness has cost {lost:.4g} and is expected to cost {coming:.4g} more; a fit costs {price:.4g}"
    return _decided(bool(regrets) and lost + coming > price, words, length)


def length_of(history: History, length: int | str) -> int:
    """A length of history in periods; of BEST the one whose challengers lost least in the last periods.

    Raises:
      TerminalError: It is neither.
    """
    if isinstance(length, int):
        return length
    if length != BEST:
        raise TerminalError(
            "There is no such length of history.",
            expected=f"a number of periods, {ALL} for all of them, or {BEST!r}",
            received=repr(length),
            remedy="Correct the policy's parameters.",
        )
    late = history.periods[-_LATE:]
    lengths = sorted(set[int]().union(*(period.challengers for period in late)) or {ALL})
    everywhere = [n for n in lengths if all(n in period.challengers for period in late)] or [ALL]
    return min(everywhere, key=lambda n: sum(period.challengers.get(n, 0.0) * period.rows for period in late))


def relative_regret(periods: Iterable[Period], length: int = ALL) -> list[float]:
    """Regret of each period as a share of the challenger's loss; 0 where that is 0."""
    return [
        period.regret(length) / loss if (loss := abs(period.challengers.get(length, period.served))) else 0.0
        for period in periods
    ]


def _decided(retrain: bool, words: str, length: int) -> Decision:
    return Decision("retrain" if retrain else "keep", words, length)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _value(text: str) -> object:
    """A number, true or false as JSON has them; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
