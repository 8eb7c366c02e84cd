"""Accounts of keys and minutes: how they are made of events, added and read; without an engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from streaming.windows.declaration import KEY_SEPARATOR, MINUTE_S, Measure, Stream
from streaming.windows.messages import Event
from streaming.windows.store import Row

Key = tuple[str, str]
"""Group, and the fields of the key joined by KEY_SEPARATOR."""
Account = list[Any]
"""How many events, then each measure: a number; of a distribution, and of a maximum that may be taken back, how many
events have which part or value; of a maximum that is never taken back the greatest value or None."""


class Arithmetic:
    """How accounts are made, added and read.

    Args:
      measures: What is kept.
      retracts: Whether events may be taken back.
    """

    def __init__(self, measures: Sequence[Measure], retracts: bool) -> None:
        self._measures = measures
        # A maximum that may be taken back is kept as how many events have which value.
        self._counts = [measure.kind == "distribution" or (retracts and measure.kind == "max") for measure in measures]

    def empty(self) -> Account:
        """Of no event."""
        places = zip(self._measures, self._counts, strict=True)
        return [0, *({} if counts else None if measure.kind == "max" else 0 for measure, counts in places)]

    def add_values(self, account: Account, sign: int, values: dict[str, int | float]) -> None:
        """Adds one event's values to an account, or with a sign of -1 takes them away."""
        account[0] += sign
        for place, measure in enumerate(self._measures, 1):
            value = values.get(measure.value)
            if value is None:
                continue
            if measure.kind == "distribution":
                _count(account[place], measure.part_of(value), sign * values.get(measure.weight, 1))
            elif self._counts[place - 1]:
                _count(account[place], value, sign)
            elif measure.kind != "max":
                account[place] += sign * value
            elif account[place] is None or value > account[place]:
                account[place] = value

    def add(self, account: Account, other: Account) -> None:
        """Adds another account to the first one."""
        account[0] += other[0]
        for place, measure in enumerate(self._measures, 1):
            value = other[place]
            if self._counts[place - 1]:
                for number, count in value.items():
                    _count(account[place], number, count)
            elif measure.kind != "max":
                account[place] += value
            elif value is not None and (account[place] is None or value > account[place]):
                account[place] = value

    def totals(self, account: Account) -> tuple[Any, ...]:
        """How many events, then each measure's total; of a maximum of nothing None, of a distribution its counts."""
        count, *rest = account
        numbers = zip(rest, self._measures, self._counts, strict=True)
        return count, *(
            max(value, default=None) if measure.kind == "max" and counts else value
            for value, measure, counts in numbers
        )


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
        self._groups = [(group.name, group.by, tuple(group.where.items())) for group in stream.groups]
        self._arithmetic = Arithmetic(stream.measures, stream.identity is not None)
        self._accounts: dict[tuple[Key, int], Account] = {}

    def add(self, event: Event, sign: int = 1) -> None:
        """Adds an event, or with a sign of -1 takes it away."""
        accounts, fields, minute = self._accounts, event.fields, int(event.at // MINUTE_S)
        for name, by, where in self._groups:
            if not all(fields.get(field) == value for field, value in where):
                continue
            try:
                key = KEY_SEPARATOR.join([fields[field] for field in by])
            except KeyError:
                continue
            place = ((name, key), minute)
            account = accounts.get(place)
            if account is None:
                account = accounts[place] = self._arithmetic.empty()
            self._arithmetic.add_values(account, sign, event.values)

    def accounts(self) -> Iterator[tuple[Key, int, Account]]:
        """Key, minute since 1970 and account, also of what was added and taken away again."""
        for (key, minute), account in self._accounts.items():
            yield key, minute, account

    def rows(self) -> list[Row]:
        """The same as a store has them: none of what was added and taken away again."""
        totals = self._arithmetic.totals
        return [Row(*key, minute, 1, totals(account)) for key, minute, account in self.accounts() if any(account)]
