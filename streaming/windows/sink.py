"""Rows and records into the store, and after them the minute to which all is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.coders import BytesCoder, VarIntCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from streaming.engine.flink_rest import STORE_WHOLE_FROM
from streaming.windows.declaration import MINUTE_S, Stream
from streaming.windows.messages import Event
from streaming.windows.store import Birth, Row, Store, opened
from streaming.windows.tables import Record

STEPS = tuple(2**power for power in range(15))
"""Minutes ahead of the last one that was passed at which timers wait: to eleven days."""
DAY = 24 * 60
_encode = msgspec.msgpack.Encoder().encode


class Held(msgspec.Struct, array_like=True):
    """What a job holds of its store.

    Args:
      token: Of the store that it fills.
      minute: That it has said last; a store that is behind it has lost something.
      lost: The minute from which the store is whole, where it lost what was before while this job filled it; else 0.
      refill: The first minute that this job has written, where it fills again what was lost before it began; else 0.
    """

    token: str
    minute: int = 0
    lost: int = 0
    refill: int = 0


_decode = msgspec.msgpack.Decoder(Held).decode


class _WithStore(beam.DoFn):
    def __init__(self, stream: Stream, where: str) -> None:
        self._stream, self._where = stream, where

    def setup(self) -> None:
        """See Beam."""
        self._store: Store = opened(self._where, self._stream)

    def teardown(self) -> None:
        """See Beam."""
        self._store.close()


class WriteRows(_WithStore):
    """Lists of `Row` -> the store, when a bundle ends; and ("", end) of the first minute and of the last one.

    Of longer windows it says nothing.
    """

    def __init__(self, stream: Stream, where: str) -> None:
        super().__init__(stream, where)
        self._written = Metrics.counter(stream.name, "rows")

    def start_bundle(self) -> None:
        """See Beam."""
        self._rows: dict[tuple[str, str, int, int], Row] = {}

    def process(self, rows: list[Row]) -> None:
        """See Beam."""
        self._rows.update((row[:4], row) for row in rows)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Writes them in one transaction."""
        if not self._rows:
            return
        self._store.write(list(self._rows.values()))
        self._written.inc(len(self._rows))
        if ends := {row.start + 1 for row in self._rows.values() if row.minutes == 1}:
            yield from _first_and_last(min(ends), max(ends))


class WriteRecords(_WithStore):
    """Lists of `Event` -> their records into the store, when a bundle ends.

    Gives ("", end) of the first minute and of the last one, too.
    """

    def start_bundle(self) -> None:
        """See Beam."""
        self._records: list[Record] = []
        self._ends: set[int] = set()

    def process(self, events: list[Event]) -> None:
        """See Beam."""
        for event in events:
            if event.records:
                self._records += [Record(table, values) for table, values in event.records.items()]
                self._ends.add(int(event.at // MINUTE_S) + 1)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Writes them in one transaction."""
        if self._records:
            self._store.upsert(self._records)
            yield from _first_and_last(min(self._ends), max(self._ends))


def _first_and_last(first: int, last: int) -> Iterator[WindowedValue]:
    for end in sorted({first, last}):
        yield WindowedValue(("", end), Timestamp(last * MINUTE_S), [GlobalWindow()])


class Advance(_WithStore):
    """("", end of what was written) -> the store's watermark, with event time.

    The watermark is the engine's, behind the writing: a timer that fires at a minute does so when everything is written
    that comes before the minute's end, by all workers. In silence it goes on by the minute with event time. Beam says
    no watermark, so timers feel for it, ahead by 1, 2, 4 ... minutes: it is found in a few rounds, however far it went.

    A store that is another one than before, or is not as far as it was, has lost something: it says from which minute
    it is whole, and so does the metric `store_whole_from`, until a job that began anew has passed that minute, or the
    store would have forgotten it.

    Args:
      stream: The declaration.
      where: Address of the store.
      follow: Whether the input goes on for ever; of one that ends, the watermark ends with what was written last.
    """

    REACHED = ReadModifyWriteStateSpec("reached", VarIntCoder())
    NEWEST = ReadModifyWriteStateSpec("newest", VarIntCoder())
    HELD = ReadModifyWriteStateSpec("held", BytesCoder())
    MINUTE = TimerSpec("minute", TimeDomain.WATERMARK)

    def __init__(self, stream: Stream, where: str, follow: bool) -> None:
        super().__init__(stream, where)
        self._follow = follow
        self._gauge = Metrics.gauge(stream.name, STORE_WHOLE_FROM)

    def start_bundle(self) -> None:
        """See Beam."""
        self._passed = 0
        self._birth: Birth | None = None

    def finish_bundle(self) -> None:
        """Writes the last minute that was passed."""
        if self._passed:
            self._store.advance(self._passed)

    def process(
        self,
        element: tuple[str, int],
        reached: Any = beam.DoFn.StateParam(REACHED),
        newest: Any = beam.DoFn.StateParam(NEWEST),
        held: Any = beam.DoFn.StateParam(HELD),
        minute: Any = beam.DoFn.TimerParam(MINUTE),
    ) -> None:
        """See Beam."""
        end, before = element[1], newest.read()
        self._compare(held, end - 1, max(before or 0, reached.read() or 0))
        if before is not None and end <= before:
            return
        newest.write(end)
        # Years that hold nothing are passed at once.
        minute.set(Timestamp(end * MINUTE_S), dynamic_timer_tag="newest")
        if before is None:
            reached.write(end - 1)
            self._feel(end - 1, end, minute)

    @on_timer(MINUTE)
    def advance(
        self,
        reached: Any = beam.DoFn.StateParam(REACHED),
        newest: Any = beam.DoFn.StateParam(NEWEST),
        held: Any = beam.DoFn.StateParam(HELD),
        minute: Any = beam.DoFn.TimerParam(MINUTE),
        time: Any = beam.DoFn.TimestampParam,
    ) -> None:
        """Event time has passed a minute, and nothing of it is on its way any more."""
        passed = time.seconds() // MINUTE_S
        self._compare(held, passed, max(newest.read(), passed))
        if passed <= (reached.read() or 0):
            return
        reached.write(passed)
        self._passed = max(self._passed, passed)
        self._hold(held, passed)
        self._feel(passed, newest.read(), minute)

    def _compare(self, held: Any, minute: int, newest: int) -> None:
        """Whether the store still has what was written, asked once for each bundle."""
        encoded = held.read()
        known = _decode(encoded) if encoded else None
        if self._birth is None:
            self._birth = birth = self._store.birth()
            if known is None:
                known = Held(birth.token, refill=minute if birth.whole_from else 0)
            elif known.token != birth.token or known.minute > (birth.watermark or 0):
                # Windows that are not over yet are written again, whole.
                known = Held(birth.token, 0, newest)
                self._store.set_whole_from(newest)
            self._gauge.set(known.lost)
        if known and minute < known.refill:
            known.refill = minute
        if known and (now := _encode(known)) != encoded:
            held.write(now)

    def _hold(self, held: Any, passed: int) -> None:
        """The minute that is being said; what was lost may be there again with it, or old by now."""
        known, birth = _decode(held.read()), self._birth
        if known.refill and birth and passed >= (birth.whole_from or 0):
            if known.refill < (birth.whole_from or 0):
                self._store.set_whole_from(known.refill)
            known.refill = 0
        if known.lost <= passed - self._stream.keep_days * DAY:
            known.lost = 0
        known.minute = passed
        held.write(_encode(known))

    def _feel(self, reached: int, end: int, minute: Any) -> None:
        for step in STEPS:
            if self._follow or reached + step <= end:
                minute.set(Timestamp((reached + step) * MINUTE_S), dynamic_timer_tag=f"{step}")
