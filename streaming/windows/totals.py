"""Totals by group, key and window, in Beam: summed in the bundle first, then by the engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms import trigger, window
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import PaneInfo, PaneInfoTiming, WindowedValue

from streaming.windows.arithmetic import Account, Arithmetic, Key, Minutes
from streaming.windows.declaration import MINUTE_S, Stream, Windows
from streaming.windows.store import Row
from streaming.windows.versions import Change

Place = tuple[str, str, int, int]
"""Group, key, first minute and length in minutes."""


class SumInBundle(beam.DoFn):
    """`Change` -> (`Key`, account) of each key and minute of the bundle, with the minute's begin as time.

    Args:
      stream: The declaration.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def start_bundle(self) -> None:
        """See Beam."""
        self._minutes = Minutes(self._stream)

    def process(self, change: Change) -> None:
        """See Beam."""
        sign, event = change
        self._minutes.add(event, sign)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """See Beam."""
        # An account without events goes out too: before the engine went back to a checkpoint, the store may have been
        # given what is taken away again in this bundle.
        for key, minute, account in self._minutes.accounts():
            yield WindowedValue((key, account), Timestamp(minute * MINUTE_S), [GlobalWindow()])


class Combine(beam.CombineFn):
    """Adds accounts, and gives their totals; of a window to which nothing came, None.

    Flink fires a window that it has already cleared, where event time passes its end and its lateness in one step: by
    the timer of the one or of the other, or by that of an early firing. Such a firing looks like any first one of a
    window of which all was taken back, except that nothing was ever added.

    Args:
      arithmetic: How.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        super().__init__()
        self._arithmetic = arithmetic

    def create_accumulator(self) -> Account | None:
        """See Beam."""
        return None

    def add_input(self, account: Account | None, other: Account) -> Account:
        """See Beam."""
        if account is None:
            account = self._arithmetic.empty()
        self._arithmetic.add(account, other)
        return account

    def merge_accumulators(self, accounts: Iterable[Account | None]) -> Account | None:
        """See Beam."""
        merged: Account | None = None
        for account in accounts:
            if account is not None:
                merged = self.add_input(merged, account)
        return merged

    def extract_output(self, account: Account | None) -> tuple[Any, ...] | None:
        """See Beam."""
        return None if account is None else self._arithmetic.totals(account)


class Totals(beam.PTransform):
    """(`Key`, account) by the minute -> `store.Row` of one kind of windows.

    Firings: `fresh_s` after something came to a window, by the clock on the wall; when the watermark has passed its
    end; and with whatever comes late. Panes accumulate: a row is the whole of its key and window, and may be written
    again. Allowed lateness: the stream's, after the window's end.

    Args:
      stream: The declaration.
      windows: Length and slide; None is the minute.
      fresh_s: Whole seconds; None is for an input that ends: each window fires once, at the end of all.
    """

    def __init__(self, stream: Stream, windows: Windows | None = None, fresh_s: int | None = None) -> None:
        super().__init__()
        self._stream, self._fresh_s = stream, fresh_s
        length_s, every_s = (windows.length_s, windows.every_s) if windows else (MINUTE_S, 0)
        self._windows = window.SlidingWindows(length_s, every_s) if every_s else window.FixedWindows(length_s)

    def expand(self, accounts: beam.PCollection[tuple[Key, Account]]) -> beam.PCollection[Row]:
        """See the class."""
        add = beam.CombinePerKey(Combine(Arithmetic(self._stream.measures, self._stream.identity is not None)))
        if self._fresh_s is None:
            # Beam's runner in this process takes a millisecond for each window: here the window is in the key.
            return (
                accounts
                | "windows" >> beam.WindowInto(self._windows)
                | "place" >> beam.ParDo(_WindowInKey()).with_output_types(tuple[Place, Account])
                | "no_windows" >> beam.WindowInto(window.GlobalWindows())
                | "add" >> add
                | "rows" >> beam.MapTuple(_row)
            )
        return (
            accounts
            | "windows"
            >> beam.WindowInto(
                self._windows,
                trigger=trigger.AfterWatermark(
                    early=trigger.AfterProcessingTime(self._fresh_s), late=trigger.AfterCount(1)
                ),
                accumulation_mode=trigger.AccumulationMode.ACCUMULATING,
                allowed_lateness=self._stream.bounds.allowed_lateness_s,
            )
            | "add" >> add
            | "rows" >> beam.ParDo(_PaneRows())
            | "no_windows" >> beam.WindowInto(window.GlobalWindows())
        )


def _place(key: Key, of: window.IntervalWindow) -> Place:
    start, end = int(of.start) // MINUTE_S, int(of.end) // MINUTE_S
    return *key, start, end - start


def _row(place: Place, totals: tuple[Any, ...], early: bool = False) -> Row:
    return Row(*place, totals, early)


class _WindowInKey(beam.DoFn):
    def process(
        self, element: tuple[Key, Account], of: window.IntervalWindow = beam.DoFn.WindowParam
    ) -> Iterator[tuple[Place, Account]]:
        yield _place(element[0], of), element[1]


class _PaneRows(beam.DoFn):
    def process(
        self,
        element: tuple[Key, tuple[Any, ...] | None],
        of: window.IntervalWindow = beam.DoFn.WindowParam,
        pane: PaneInfo = beam.DoFn.PaneInfoParam,
    ) -> Iterator[Row]:
        key, totals = element
        # A window that expires fires once more, with nothing new in it.
        expired = pane.timing == PaneInfoTiming.LATE and pane.is_last and pane.nonspeculative_index > 0
        if totals is not None and not expired:
            yield _row(_place(key, of), totals, pane.timing == PaneInfoTiming.EARLY)
