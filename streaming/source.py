"""A source for Beam: a topic of Kafka as batches of messages by hour of event time, pure Python.

One reader reads all partitions (`reader.py`), because the log's progress is that of its slowest partition, and Python's
cost is by element: a batch is one, however many messages it holds. The engine's own checkpoints are not needed: whoever
starts the stream again asks the accounts where to begin.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration, Timestamp

from streaming.accounts import Accounts
from streaming.reader import FOREVER, Ranges, Reader, Source
from streaming.sorting import HOUR_MS, encode_batch

BUNDLE_S = 0.2
"""So long the engine waits for what was read."""
REST_S = 0.05
"""So long nothing is asked of a topic that had nothing to say."""
_MOST = 10**9
"""Of what a partition without an end has left; engines calculate with it."""


class Ranged(RestrictionTracker):
    """What of the partitions is claimed; it can be cut where it stands, and nowhere else."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self._claimed = {number: start for number, start, _ in ranges}
        self._cut = False

    def current_restriction(self) -> Ranges:
        """What is to be read, cut or not."""
        return self._ranges

    def current_progress(self) -> RestrictionProgress:
        """In messages, about."""
        return RestrictionProgress(
            completed=float(sum(self._claimed[number] - start for number, start, _ in self._ranges)),
            remaining=float(sum(min(stop - self._claimed[number], _MOST) for number, _, stop in self._ranges)),
        )

    def try_claim(self, position: Mapping[int, int]) -> bool:
        """Claims all up to an offset of each partition; in vain when what is left was cut away."""
        if self._cut:
            return False
        self._claimed.update(position)
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Ranges, Ranges] | None:
        """Cuts off what is not claimed, to be read later; None where that is nothing."""
        if self._cut or fraction_of_remainder != 0 or self._done():
            return None
        rest = tuple((number, self._claimed[number], stop) for number, _, stop in self._ranges)
        self._ranges = tuple((number, start, self._claimed[number]) for number, start, _ in self._ranges)
        self._cut = True
        return self._ranges, rest

    def check_done(self) -> bool:
        """Raises ValueError where something was left unread."""
        if not self._done():
            raise ValueError(f"{self._ranges} is not read to its end, but to {self._claimed}")
        return True

    def is_bounded(self) -> bool:
        """Whether it ends."""
        return all(stop < FOREVER for _, _, stop in self._ranges)

    def _done(self) -> bool:
        return all(self._claimed[number] >= stop for number, _, stop in self._ranges)


class _Ranges(RestrictionProvider):
    def initial_restriction(self, element: tuple[int, Ranges]) -> Ranges:
        return element[1]

    def create_tracker(self, restriction: Ranges) -> Ranged:
        return Ranged(restriction)

    def restriction_size(self, element: tuple[int, Ranges], restriction: Ranges) -> int:
        return sum(min(stop - start, _MOST) for _, start, stop in restriction)


class _Watermarks(WatermarkEstimatorProvider):
    def initial_estimator_state(self, element: Any, restriction: Ranges) -> Timestamp:
        # Without one Beam takes the wall's clock for the beginning, and whole windows vanish.
        return MIN_TIMESTAMP

    def create_watermark_estimator(self, estimator_state: Timestamp) -> ManualWatermarkEstimator:
        return ManualWatermarkEstimator(estimator_state)


_readers: dict[tuple[str, int], Reader] = {}
_reading = threading.Lock()


def _reader(source: Source, run: int, ranges: Ranges) -> Reader:
    """The reader of this process; the engine may go on in another thread, or another process, than it began in."""
    key = (str(source.accounts), run)
    with _reading:
        reader = _readers.get(key)
        if reader is None:
            for old in [other for other in _readers if other[0] == key[0]]:
                _readers.pop(old).close()
            accounts = Accounts(source.accounts)
            try:
                resume = accounts.resume(run, source.reach)
            finally:
                accounts.close()
            reader = _readers[key] = Reader(source, resume, ranges)
        else:
            reader.seek(ranges)
    return reader


def _forget(reader: Reader) -> None:
    with _reading:
        for key in [key for key, held in _readers.items() if held is reader]:
            _readers.pop(key).close()


_RANGES, _WATERMARKS = beam.DoFn.RestrictionParam(_Ranges()), beam.DoFn.WatermarkEstimatorParam(_Watermarks())


class _Read(beam.DoFn):
    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, element: tuple[int, Ranges], tracker: Any, watermark: Any) -> Iterator[TimestampedValue]:
        reader = _reader(self._source, element[0], tracker.current_restriction())
        until = time.monotonic() + BUNDLE_S
        try:
            while True:
                records, following = reader.poll()
                if following and not tracker.try_claim(following):
                    return
                out, reached = reader.take(records, following)
                for hour, batch in out.batches.items():
                    batch.reached = reached
                    yield TimestampedValue((hour, encode_batch(batch)), Timestamp(hour * HOUR_MS // 1000))
                if reached is not None and (now := Timestamp(micros=reached * 1000)) > watermark.current_watermark():
                    watermark.set_watermark(now)
                if reader.ended:
                    return
                if not following or time.monotonic() > until:
                    tracker.defer_remainder(None if following else Duration(REST_S))
                    return
        except BaseException:
            # What it sorted and did not enter, another one sorts again.
            _forget(reader)
            raise


class _ReadRange(_Read):
    def process(
        self, element: tuple[int, Ranges], tracker: Any = _RANGES, watermark: Any = _WATERMARKS
    ) -> Iterator[TimestampedValue]:
        return self.read(element, tracker, watermark)


class _Follow(_Read):
    @beam.DoFn.unbounded_per_element()
    def process(
        self, element: tuple[int, Ranges], tracker: Any = _RANGES, watermark: Any = _WATERMARKS
    ) -> Iterator[TimestampedValue]:
        return self.read(element, tracker, watermark)


class ReadHours(beam.PTransform):
    """A topic -> (hour since 1970, bytes of a `sorting.Batch`), stamped with the hour's beginning.

    Args:
      source: What is read.
      run: The number of the run, of `Source.begin`.
      ranges: What it reads.
    """

    def __init__(self, source: Source, run: int, ranges: Ranges) -> None:
        super().__init__()
        self._source, self._element = source, (run, ranges)

    def expand(self, begin: Any) -> beam.PCollection[tuple[int, bytes]]:
        """See the class."""
        bounded = all(stop < FOREVER for _, _, stop in self._element[1])
        read = _ReadRange(self._source) if bounded else _Follow(self._source)
        return (
            begin
            | "ranges" >> beam.Create([self._element], reshuffle=False)
            | "read" >> beam.ParDo(read).with_output_types(tuple[int, bytes])
        )
