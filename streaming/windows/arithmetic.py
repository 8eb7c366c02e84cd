"""Accounts of keys and minutes: how they are made of events, added and read; without an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from streaming.windows.declaration import KEY_SEPARATOR, MINUTE_S, Group, Measure, Stream
from streaming.windows.messages import Event
from streaming.windows.store import Row

Place = tuple[str, str, int, int]
"""Group, the fields of the key joined by KEY_SEPARATOR, first minute since 1970, and length in minutes."""
Account = list[Any]
"""How many events, then each measure: a number; of a distribution, and of a maximum that may be taken back, how many
events have which part or value; of a maximum that is never taken back the greatest value or None."""

SUM, GREATEST, VALUES, PARTS = range(4)
"""How an account keeps a measure: a sum; the greatest value; how many events have which value, where a maximum may be
taken back; how many are in which part of a distribution."""


class Arithmetic:
    """How accounts are made, added and read.

    Args:
      measures: What is kept.
      retracts: Whether events may be taken back.
    """

    def __init__(self, measures: Sequence[Measure], retracts: bool) -> None:
        kinds = {"sum": SUM, "mean": SUM, "max": VALUES if retracts else GREATEST, "distribution": PARTS}
        self._kinds = [
            (place, measure.value, kinds[measure.kind], measure) for place, measure in enumerate(measures, 1)
        ]
        self._empty: Account = [0, *(None if kind == GREATEST else 0 for *_, kind, _ in self._kinds)]
        self._counts = [place for place, _, kind, _ in self._kinds if kind in (VALUES, PARTS)]
        self._maxima = [place for place, _, kind, _ in self._kinds if kind == VALUES]

    def empty(self) -> Account:
        """Of no event."""
        account = self._empty.copy()
        for place in self._counts:
            account[place] = {}
        return account

    def add_values(self, account: Account, sign: int, values: dict[str, int | float]) -> None:
        """Adds one event's values to an account, or with a sign of -1 takes them away."""
        account[0] += sign
        for place, name, kind, measure in self._kinds:
            value = values.get(name)
            if value is None:
                continue
            if kind == SUM:
                account[place] += sign * value
            elif kind == VALUES:
                _count(account[place], value, sign)
            elif kind == PARTS:
                _count(account[place], measure.part_of(value), sign * values.get(measure.weight, 1))
            elif account[place] is None or value > account[place]:
                account[place] = value

    def add(self, account: Account, other: Account) -> None:
        """Adds another account to the first one."""
        account[0] += other[0]
        for place, _, kind, _ in self._kinds:
            value = other[place]
            if kind == SUM:
                account[place] += value
            elif kind == GREATEST:
                if value is not None and (account[place] is None or value > account[place]):
                    account[place] = value
            else:
                for number, count in value.items():
                    _count(account[place], number, count)

    def totals(self, account: Account) -> tuple[Any, ...]:
        """How many events, then each measure's total; of a maximum of nothing None, of a distribution its counts."""
        totals = account.copy()
        for place in self._maxima:
            totals[place] = max(account[place], default=None)
        return tuple(totals)


def sum_of(measures: Sequence[Measure], totals: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    """The totals of several minutes together."""
    arithmetic = Arithmetic(measures, retracts=False)
    account = arithmetic.empty()
    for one in totals:
        arithmetic.add(account, list(one))
    return tuple(account)


def _count(counts: dict[Any, float], value: float, by: float) -> None:
    if number := counts.get(value, 0) + by:
        counts[value] = number
    else:
        counts.pop(value, None)


class Minutes:
    """The accounts of all keys and minutes of some events.

    Args:
      stream: The declaration.
    """

    def __init__(self, stream: Stream) -> None:
        self._groups = [(group.name, _key_of(group), group.where.items()) for group in stream.groups]
        self._arithmetic = Arithmetic(stream.measures, stream.identity is not None)
        self.accounts: dict[Place, Account] = {}
        """Also of what was added and taken away again."""

    def add(self, event: Event, sign: int = 1) -> None:
        """Adds an event, or with a sign of -1 takes it away."""
        accounts, fields, minute = self.accounts, event.fields, int(event.at // MINUTE_S)
        has = fields.items()
        for name, key_of, where in self._groups:
            if not where <= has:
                continue
            try:
                place = (name, key_of(fields), minute, 1)
            except KeyError:
                continue
            account = accounts.get(place)
            if account is None:
                account = accounts[place] = self._arithmetic.empty()
            self._arithmetic.add_values(account, sign, event.values)

    def rows(self) -> list[Row]:
        """The same as a store has them: none of what was added and taken away again."""
        totals = self._arithmetic.totals
        return [Row(*place, totals(account)) for place, account in self.accounts.items() if any(account)]


def _key_of(group: Group) -> Callable[[Mapping[str, str]], str]:
    """The function fields of an event -> key in a group; it raises KeyError for an event that lacks one."""
    if not group.by:
        return lambda fields: ""
    get = itemgetter(*group.by)
    return get if len(group.by) == 1 else lambda fields: KEY_SEPARATOR.join(get(fields))
