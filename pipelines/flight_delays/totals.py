"""Totals of what is alive at an instant, for many keys at once: sorted arrays, running sums and binary search.

Spark deals the rows out by key and span of time; each partition is then a few arrays for NumPy. The same totals by
Spark's window functions cost ten times as much, most of it for sorting rows one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def names(life: int) -> tuple[str, str, str]:
    """The columns of a life's three totals: how many, how many of them late, and the sum of their minutes."""
    return f"count_{life}", f"late_{life}", f"minutes_{life}"


def schema(lives: int) -> str:
    """What `at_instants` answers, as Spark's DDL."""
    totals = [f"{name} long" for life in range(lives) for name in names(life)]
    return ", ".join(("flight_id string", "cutoff long", *totals))


def at_instants(
    keys: tuple[str, ...], lives: int, span: int
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Gives what Spark's `mapInArrow` calls with the rows of each partition.

    A row is a flight in one span of time: with the key columns, `flight_id`, `cutoff`, `span` (its number), and for
    each life n `enter_n`, `leave_n`, `late_n`, `minutes_n`; instants are microseconds since 1970, null where there is
    no life. A flight is there once for each span that its cut-off or a life of it touches, and all rows of a key and
    span are in one partition. A life counts at every instant t with enter < t <= leave.

    Args:
      keys: The key columns, of any type.
      lives: How many lives a row has.
      span: Length of a span, microseconds.

    Returns:
      A function that needs no module of ours, so that Spark can send it to any worker that has NumPy and PyArrow. It
      answers the columns of `schema`, a row for each flight whose cut-off lies in the span.
    """

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
        # An instant is told by its group and its place in the span: 0 for any before it, span + 1 for any after it.
        width = span + 2
        if (int(group.max()) + 1) * width > np.iinfo(np.int64).max:
            raise ValueError(
                f"{int(group.max()) + 1} groups of {span} us in one partition are too many: use more partitions"
            )

        def place(instants: np.ndarray, of: np.ndarray) -> np.ndarray:
            return group[of] * width + np.clip(instants - number[of] * span, -1, span) + 1

        cutoff = table["cutoff"].to_numpy()
        asked = np.flatnonzero(cutoff // span == number)
        at = place(cutoff[asked], asked)
        answer = [table["flight_id"].take(asked).combine_chunks(), pa.array(cutoff[asked])]
        for life in range(lives):
            alive = np.flatnonzero(table[f"enter_{life}"].is_valid().to_numpy())
            adds = [np.ones(len(alive), np.int64)]
            adds += [table[f"{name}_{life}"].take(alive).to_numpy().astype(np.int64) for name in ("late", "minutes")]
            totals = np.zeros((len(adds), len(at)), np.int64)
            # Of each group as many enter as leave, so that what the groups before add is taken away again.
            for end, sign in (("enter", 1), ("leave", -1)):
                instants = place(table[f"{end}_{life}"].take(alive).to_numpy(), alive)
                order = np.argsort(instants, kind="stable")
                before = np.searchsorted(instants[order], at, side="left")
                for which, add in enumerate(adds):
                    totals[which] += sign * np.concatenate([[0], np.cumsum(add[order])])[before]
            answer += [pa.array(total) for total in totals]
        found = [f"{name}_{life}" for life in range(lives) for name in ("count", "late", "minutes")]
        yield pa.RecordBatch.from_arrays(answer, names=["flight_id", "cutoff", *found])

    return of_partition
