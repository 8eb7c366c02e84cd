"""Totals by group, key and window, in Beam: summed in the bundle first, then in the engine's state."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.coders import BytesCoder
from apache_beam.transforms import window
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from streaming.windows.arithmetic import Account, Arithmetic, Minutes, Place
from streaming.windows.declaration import MINUTE_S, Stream, Windows
from streaming.windows.mirrored_log import Logs, Mirrored
from streaming.windows.store import Row
from streaming.windows.versions import Change

PARTS = 8
"""Keys share so many keys of the engine's state; a stream's windows can be kept by as many slots."""
SPAN_S = 3600
"""Windows that end in the same so many seconds share a state; it is gone with the last of them."""
SLICE = 10_000
"""Accounts in one entry of a log that is written anew."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[Place, list[Any]]]).decode


class Totals(beam.PTransform):
    """Lists of `Change` -> lists of `store.Row`, of minutes and of the windows that the stream declares.

    Of an input that goes on for ever each bundle gives the rows that it changes, whole, so that a row may be written
    again. What comes later than the allowed lateness after the end of the `SPAN_S` in which its window ends changes
    nothing: the engine drops it. Of an input that ends each window gives one row, at the end of all.

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
                | "rows" >> beam.MapTuple(lambda place, totals: [Row(*place, totals)])
            )
        lateness_s = self._stream.bounds.allowed_lateness_s
        return (
            changes
            | "sum_in_bundle" >> beam.ParDo(PackInBundle(self._stream)).with_output_types(tuple[str, bytes])
            | "spans" >> beam.WindowInto(window.FixedWindows(SPAN_S), allowed_lateness=lateness_s)
            | "running" >> beam.ParDo(RunningTotals(self._stream))
            | "no_spans" >> beam.WindowInto(window.GlobalWindows())
        )


class SumInBundle(beam.DoFn):
    """Lists of `Change` -> (`Place`, account) of the bundle, once each.

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
                    window_sum = sums.setdefault((group, key, start, minutes), self._arithmetic.empty())
                    self._arithmetic.add(window_sum, account)
        return sums.items()


class PackInBundle(SumInBundle):
    """Lists of `Change` -> (part of the keys, encoded accounts), together as far as they share a state."""

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """See Beam."""
        packs: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
        for place, account in self._sums():
            group, key, start, minutes = place
            last_s = (start + minutes) * MINUTE_S - 1
            part = zlib.crc32(f"{group}|{key}".encode()) % PARTS
            packs[part, last_s - last_s % SPAN_S].append((place, account))
        for (part, span), pack in packs.items():
            yield WindowedValue((str(part), _encode(pack)), Timestamp(span), [GlobalWindow()])


class RunningTotals(beam.DoFn):
    """(part, encoded accounts) by span -> list of `store.Row`: what the accounts come to with all that came before.

    The state of a part and span is a log of what came; Beam removes it when the span is over and its lateness has
    passed.

    Args:
      stream: The declaration.
    """

    LOG = BagStateSpec("log", BytesCoder())
    TOKEN = ReadModifyWriteStateSpec("token", BytesCoder())

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def setup(self) -> None:
        """See Beam."""
        self._arithmetic = _arithmetic(self._stream)

    def start_bundle(self) -> None:
        """See Beam."""
        self._logs = Logs(self._read)

    def process(
        self,
        element: tuple[str, bytes],
        span: Any = beam.DoFn.WindowParam,
        log: Any = beam.DoFn.StateParam(LOG),
        token: Any = beam.DoFn.StateParam(TOKEN),
    ) -> Iterator[list[Row]]:
        """See Beam."""
        part, encoded = element
        mirrored = self._logs.of((self._stream.name, part, int(span.start)), log, token)
        log.add(encoded)
        accounts, totals = mirrored.content, self._arithmetic.totals
        rows = []
        for place, account in self._added(accounts, encoded):
            mirrored.entries += 1
            rows.append(Row(*place, totals(account)))
        if mirrored.is_long:
            _rewrite(mirrored, log)
        yield rows

    def _added(self, accounts: dict[Place, Account], encoded: bytes) -> Iterator[tuple[Place, Account]]:
        """Adds accounts to those that are held, and gives what these come to."""
        add = self._arithmetic.add
        for place, account in _decode(encoded):
            held = accounts.setdefault(place, account)
            if held is not account:
                add(held, account)
            yield place, held

    def _read(self, log: Iterable[bytes]) -> tuple[dict[Place, Account], int]:
        accounts: dict[Place, Account] = {}
        return accounts, sum(1 for encoded in log for _ in self._added(accounts, encoded))


def _rewrite(mirrored: Mirrored[dict[Place, Account]], log: Any) -> None:
    log.clear()
    accounts = list(mirrored.content.items())
    for at in range(0, len(accounts), SLICE):
        log.add(_encode(accounts[at : at + SLICE]))
    mirrored.entries = len(accounts)


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
