"""Sums over events that count for an interval of time each, at many instants and for many keys at once.

An event enters a sum when it becomes known and leaves it when it is too old, so that the cost is linear in the events,
however long the intervals are. Sums are of whole numbers: adding and subtracting is exact.

Spark deals the rows out by key and span of time; each partition is then a few sorted arrays for NumPy, prefix sums and
binary search. The same sums by Spark's window functions cost ten times as much, most of it for sorting rows one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

SPAN_MINUTES = 24 * 60
"""The rows of a key are dealt out in spans of time this long, longer where an interval is."""
MICROS_OF_MINUTE = 60_000_000
COUNT = "count"
"""The sum that every interval has: how many events."""
_ENTER, _LEAVE, _SPAN = "enter", "leave", "span"


@dataclass(frozen=True)
class EventInterval:
    """When an event counts: at every instant t with enter < t <= leave.

    Args:
      enter: Microseconds since 1970; null when the event never enters.
      leave: Microseconds since 1970, at most `longest` later.
      longest: Minutes.
      adds: What it adds to further sums, by name; whole numbers.
    """

    enter: Column
    leave: Column
    longest: int
    adds: Mapping[str, Column] = field(default_factory=dict)

    @property
    def sums(self) -> tuple[str, ...]:
        """Names of the sums."""
        return (COUNT, *self.adds)

    def columns(self, number: int) -> list[Column]:
        """All of it as columns, named by a number; an interval that never begins does not end."""
        from pyspark.sql import functions as F

        leave = F.when(self.enter.isNotNull(), self.leave)
        parts = {_ENTER: self.enter, _LEAVE: leave, **self.adds}
        return [column.alias(f"{name}_{number}") for name, column in parts.items()]


def sums_at(rows: DataFrame, keys: Sequence[str], intervals: Sequence[EventInterval], row: str, at: str) -> DataFrame:
    """For each row, which is also an event, the sums of the events of the same keys at an instant of its own.

    Rows are dealt out by key and span of time, as long as the longest interval but a day at least, so that a busy key
    is many small pieces of work and not a large one; a row is in every span that an interval of it touches.

    Args:
      rows: Rows and events.
      keys: Columns that a row and the events that count for it share; () for all events.
      intervals: When the events count.
      row: Column that names a row, a text.
      at: Column of the instant, microseconds since 1970.

    Returns:
      The columns `row` and `at`, and for the interval n `count_n` and `<name>_n` of what it adds, all long.
    """
    from pyspark.sql import functions as F

    length = max(SPAN_MINUTES, *(interval.longest for interval in intervals)) * MICROS_OF_MINUTE
    # The intervals are columns before spans are made of them: Spark would compute them again for each span.
    columns = [column for number, interval in enumerate(intervals) for column in interval.columns(number)]
    ends = [F.col(f"{end}_{number}") for number in range(len(intervals)) for end in (_ENTER, _LEAVE)]
    # Nulls are passed over, and there is always an instant.
    first, last = (F.floor(pick(at, *ends) / F.lit(length)) for pick in (F.least, F.greatest))
    dealt = rows.select(*keys, row, at, *columns).withColumn(_SPAN, F.explode(F.sequence(first, last)))
    sums = [interval.sums for interval in intervals]
    at_instants = sums_in_partition(keys, sums, length, row, at)
    return dealt.repartition(*keys, _SPAN).mapInArrow(at_instants, schema(sums, row, at))


def schema(sums: Sequence[Sequence[str]], row: str, at: str) -> str:
    """What `sums_in_partition` answers, as Spark's DDL; arguments are as there."""
    columns = [f"{name}_{number} long" for number, names in enumerate(sums) for name in names]
    return ", ".join((f"{row} string", f"{at} long", *columns))


def sums_in_partition(
    keys: Sequence[str], sums: Sequence[Sequence[str]], span: int, row: str, at: str
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What Spark's `mapInArrow` calls with the rows of each partition.

    A row is there once for each span that its instant or an interval of it touches, with the key columns, `row`, `at`,
    `span` (its number), and for each interval n `enter_n`, `leave_n` and `<name>_n` of what it adds; instants are
    microseconds since 1970, null where there is no interval. All rows of a key and span are in one partition.

    Args:
      keys: The key columns, of any type.
      sums: Of each interval the names of its sums, the first one the count.
      span: Length of a span, microseconds.
      row: As of `sums_at`.
      at: As of `sums_at`.

    Returns:
      A function that needs no module of ours, so that Spark can send it to any worker that has NumPy and PyArrow. It
      answers the columns of `schema`, a row for each row whose instant lies in the span.
    """
    adds = [list(names[1:]) for names in sums]
    columns = [row, at, *(f"{name}_{number}" for number, names in enumerate(sums) for name in names)]

    def of_partition(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import pyarrow as pa

        parts = list(batches)
        if not any(map(len, parts)):
            return
        table = pa.Table.from_batches(parts).combine_chunks()
        # One number for each key and span.
        group = np.zeros(len(table), np.int64)
        for name in (*keys, "span"):
            encoded = table[name].combine_chunks().dictionary_encode(null_encoding="encode")
            combined = group * len(encoded.dictionary) + encoded.indices.to_numpy(zero_copy_only=False)
            group = np.unique(combined, return_inverse=True)[1]
        number = table["span"].to_numpy()
        # An instant is its group and its place in the span: 0 for any before it, span + 1 for any after it.
        width = span + 2
        if (int(group.max()) + 1) * width > np.iinfo(np.int64).max:
            raise ValueError(
                f"{int(group.max()) + 1} groups of {span} us in one partition are too many: use more partitions"
            )

        def place(instants: np.ndarray, of: np.ndarray) -> np.ndarray:
            return group[of] * width + np.clip(instants - number[of] * span, -1, span) + 1

        instants_of_rows = table[at].to_numpy()
        own = np.flatnonzero(instants_of_rows // span == number)
        places = place(instants_of_rows[own], own)
        answer = [table[row].take(own).combine_chunks(), pa.array(instants_of_rows[own])]
        for interval, names in enumerate(adds):
            there = np.flatnonzero(table[f"enter_{interval}"].is_valid().to_numpy())
            added = [np.ones(len(there), np.int64)]
            added += [table[f"{name}_{interval}"].take(there).to_numpy().astype(np.int64) for name in names]
            totals = np.zeros((len(added), len(places)), np.int64)
            # Of each group as many enter as leave, so that what the groups before add is taken away again.
            for end, sign in (("enter", 1), ("leave", -1)):
                instants = place(table[f"{end}_{interval}"].take(there).to_numpy(), there)
                order = np.argsort(instants, kind="stable")
                before = np.searchsorted(instants[order], places, side="left")
                for which, add in enumerate(added):
                    totals[which] += sign * np.concatenate([[0], np.cumsum(add[order])])[before]
            answer += [pa.array(total) for total in totals]
        yield pa.RecordBatch.from_arrays(answer, names=columns)

    return of_partition
