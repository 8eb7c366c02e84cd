"""Totals by group, key and window, in Beam: summed in the bundle first, then in the engine's state."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.metrics import Metrics
from apache_beam.transforms import window
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from streaming.engine.flink_rest import DROPPED
from streaming.windows.arithmetic import Account, Arithmetic, Minutes, Place
from streaming.windows.batches import Batch
from streaming.windows.declaration import MINUTE_S, Stream, Windows
from streaming.windows.mirrored_log import KeepsLog, shared_key
from streaming.windows.store import Row
from streaming.windows.versions import Change

PARTS = 8
"""A stream's keys share so many keys of the engine's state."""
MANY = 500
"""Windows of a part; fewer are held however old they are, so that the timers of a sparse stream are few, too."""
EXPIRY_S = 600.0
"""A part forgets windows once in so many seconds of event time at most, unless its state is read again."""
BEFORE_ALL = -(1 << 40)
"""A minute before all others."""
SLICE = 10_000
"""Accounts in one entry of a log that is written anew."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, list[tuple[Place, list[Any]]]]).decode


class Totals(beam.PTransform):
    """Lists of `Change` -> lists of `store.Row`, of minutes and of the windows that the stream declares.

    Of an input that goes on for ever each bundle gives the rows that it changes, whole, so that a row may be written
    again. Of an input that ends each window gives one row, at the end of all.

    Args:
      stream: The declaration.
      follow: Whether the input goes on for ever.
    """

    def __init__(self, stream: Stream, follow: bool) -> None:
        super().__init__()
        self._stream, self._follow = stream, follow

    def expand(self, changes: beam.PCollection[list[Change]]) -> beam.PCollection[list[Row]]:
        """See the class."""
        if not self._follow:
            return (
                changes
                | "sum_in_bundle" >> beam.ParDo(SumInBundle(self._stream)).with_output_types(tuple[Place, Account])
                | "add" >> beam.CombinePerKey(Combine(_arithmetic(self._stream)))
                | "rows" >> beam.MapTuple(_row).with_output_types(Batch)
            )
        return (
            changes
            | "sum_in_bundle" >> beam.ParDo(PackInBundle(self._stream)).with_output_types(tuple[str, bytes])
            | "running" >> beam.ParDo(RunningTotals(self._stream)).with_output_types(Batch)
        )


class SumInBundle(beam.DoFn):
    """Lists of `Change` -> (`Place`, account) of the bundle, once each; for an input that ends.

    Args:
      stream: The declaration.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def setup(self) -> None:
        """See Beam."""
        self._arithmetic = _arithmetic(self._stream)
        self._windows_of = _windows_of(self._stream.windows)

    def start_bundle(self) -> None:
        """See Beam."""
        self._minutes = Minutes(self._stream)

    def process(self, changes: list[Change]) -> None:
        """See Beam."""
        for sign, event in changes:
            self._minutes.add(event, sign)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """See Beam."""
        for place, account in self._sums():
            yield WindowedValue((place, account), Timestamp(place[2] * MINUTE_S), [GlobalWindow()])

    def _sums(self) -> Iterable[tuple[Place, Account]]:
        # An account without events goes out too: before the engine went back to a checkpoint, the store may have been
        # given what is taken away again in this bundle.
        sums = dict(self._minutes.accounts)
        if self._stream.windows:
            for (group, key, minute, _), account in self._minutes.accounts.items():
                for start, minutes in self._windows_of(minute):
                    place = (group, key, start, minutes)
                    if place not in sums:
                        sums[place] = self._arithmetic.empty()
                    self._arithmetic.add(sums[place], account)
        return sums.items()


class PackInBundle(SumInBundle):
    """Lists of `Change` -> (part of the keys, encoded accounts): the same for an input that goes on for ever.

    Accounts are together as far as they share a state.
    """

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """See Beam."""
        packs: defaultdict[str, list[Any]] = defaultdict(list)
        for place, account in self._sums():
            packs[shared_key(place[0] + place[1], PARTS)].append((place, account))
        for part, pack in packs.items():
            oldest = min(start for (_, _, start, _), _ in pack)
            yield WindowedValue((part, _encode((BEFORE_ALL, pack))), Timestamp(oldest * MINUTE_S), [GlobalWindow()])


class _Accounts(dict[Place, Account]):
    """The accounts of a part's windows.

    Args:
      over: Minute since 1970; windows that end by it are gone, and what comes to them is too late.
    """

    def __init__(self, over: int = BEFORE_ALL) -> None:
        super().__init__()
        self.over = over


class RunningTotals(KeepsLog[_Accounts]):
    """(part, encoded accounts) -> list of `store.Row`: what the accounts come to with all that came before.

    The log of a part is what came. Where it has many windows it forgets those whose lateness has passed.

    Metrics: `droppedDueToLateness`, accounts that came when their window was forgotten; the engine's own steps have one
    of that name.

    Args:
      stream: The declaration.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(f"{stream.name} totals", stream.bounds.allowed_lateness_s, EXPIRY_S, MANY)
        self._stream = stream
        self._dropped = Metrics.counter(stream.name, DROPPED)

    def setup(self) -> None:
        """See Beam."""
        self._arithmetic = _arithmetic(self._stream)

    def process(
        self,
        element: tuple[str, bytes],
        log: Any = beam.DoFn.StateParam(KeepsLog.LOG),
        token: Any = beam.DoFn.StateParam(KeepsLog.TOKEN),
        expiry: Any = beam.DoFn.TimerParam(KeepsLog.EXPIRY),
    ) -> Iterator[list[Row]]:
        """See Beam."""
        part, encoded = element
        mirrored = self._log_of(part, log, token)
        log.add(encoded)
        totals = self._arithmetic.totals
        _, came = _decode(encoded)
        rows = [Row(*place, totals(account)) for place, account in self._sums(mirrored.content, came)]
        mirrored.entries += len(came)
        if len(rows) < len(came):
            self._dropped.inc(len(came) - len(rows))
        self._added(mirrored, log, expiry)
        yield rows

    def _sums(self, accounts: _Accounts, came: list[tuple[Place, Account]]) -> Iterator[tuple[Place, Account]]:
        """Adds accounts to those that are held, unless they are too late, and gives what these come to."""
        add = self._arithmetic.add
        for place, account in came:
            if place[2] + place[3] > accounts.over:
                held = accounts.setdefault(place, account)
                if held is not account:
                    add(held, account)
                yield place, held

    def _read(self, log: Iterable[bytes]) -> tuple[_Accounts, int]:
        entries = [_decode(encoded) for encoded in log]
        accounts = _Accounts(max((over for over, _ in entries), default=BEFORE_ALL))
        for _, came in entries:
            deque(self._sums(accounts, came), maxlen=0)
        return accounts, sum(len(came) for _, came in entries)

    def _entries(self, content: _Accounts) -> Iterator[bytes]:
        accounts = list(content.items())
        for at in range(0, len(accounts) or 1, SLICE):
            yield _encode((content.over, accounts[at : at + SLICE]))

    def _times(self, content: _Accounts) -> Iterable[float]:
        return map(_end_s, content)

    def _forget(self, content: _Accounts, before_s: float) -> None:
        content.over = max(content.over, int(before_s // MINUTE_S))
        for place in [place for place in content if _end_s(place) <= content.over * MINUTE_S]:
            del content[place]


def _row(place: Place, totals: tuple[Any, ...]) -> list[Row]:
    return [Row(*place, totals)]


def _end_s(place: Place) -> int:
    return (place[2] + place[3]) * MINUTE_S


class Combine(beam.CombineFn):
    """Adds accounts, and gives their totals.

    Args:
      arithmetic: How.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__()
        self._arithmetic = arithmetic

    def create_accumulator(self) -> Account:
        """See Beam."""
        return self._arithmetic.empty()

    def add_input(self, account: Account, other: Account) -> Account:
        """See Beam."""
        self._arithmetic.add(account, other)
        return account

    def merge_accumulators(self, accounts: Iterable[Account]) -> Account:
        """See Beam."""
        merged = self._arithmetic.empty()
        for account in accounts:
            self._arithmetic.add(merged, account)
        return merged

    def extract_output(self, account: Account) -> tuple[Any, ...]:
        """See Beam."""
        return self._arithmetic.totals(account)


def _arithmetic(stream: Stream) -> Arithmetic:
    return Arithmetic(stream.measures, stream.identity is not None)


def _windows_of(declared: tuple[Windows, ...]) -> Callable[[int], tuple[tuple[int, int], ...]]:
    """The function minute -> first minute and length of each declared window that holds it."""
    kinds = [
        window.SlidingWindows(one.length_s, one.every_s) if one.every_s else window.FixedWindows(one.length_s)
        for one in declared
    ]

    @lru_cache(maxsize=10_000)
    def windows_of(minute: int) -> tuple[tuple[int, int], ...]:
        at = window.WindowFn.AssignContext(Timestamp(minute * MINUTE_S))
        holding = [(int(one.start), int(one.end)) for kind in kinds for one in kind.assign(at)]
        return tuple((start // MINUTE_S, (end - start) // MINUTE_S) for start, end in holding)

    return windows_of
