"""Sums at instants, beside the definition: count what has entered before and has not left before."""

import numpy as np
import pyarrow as pa
import pytest

from components.features.interval_sums import schema, sums_in_partition

SPAN = 1_000
SUMS = (("count", "late", "minutes"),) * 2


def events(count: int, seed: int) -> list[dict]:
    """Events of two colours and an unknown one, with a short and a long interval each; every fourth has none."""
    chance = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        at, enter = (int(instant) for instant in chance.integers(0, 5 * SPAN, 2))
        # Instants that are equal are what such sums get wrong.
        at, enter = at // 50 * 50, enter // 50 * 50
        row = {
            "colour": ["red", "green", None][number % 3],
            "number": number % 2,
            "event": f"e{number}",
            "at": at,
        }
        for interval, length in enumerate((200, SPAN)):
            there = number % 4 > 0
            row |= {
                f"enter_{interval}": enter if there else None,
                f"leave_{interval}": enter + length if there else None,
                f"late_{interval}": int(chance.integers(0, 2)) if there else None,
                f"minutes_{interval}": int(chance.integers(-60, 600)) if there else None,
            }
        rows.append(row)
    return rows


def dealt(rows: list[dict]) -> list[dict]:
    """A row for each span that an event's instant or an interval touches, as Spark deals them."""
    rows_by_span = []
    for row in rows:
        ends = [row["at"], *(row[f"{end}_{n}"] for end in ("enter", "leave") for n in (0, 1))]
        spans = [end // SPAN for end in ends if end is not None]
        rows_by_span += [row | {"span": span} for span in range(min(spans), max(spans) + 1)]
    return rows_by_span


def defined(rows: list[dict], own: dict) -> dict[str, int]:
    """The sums at one event's instant, by definition."""
    answer = {}
    for interval in (0, 1):
        counting = [
            row
            for row in rows
            if (row["colour"], row["number"]) == (own["colour"], own["number"])
            if row[f"enter_{interval}"] is not None
            if row[f"enter_{interval}"] < own["at"] <= row[f"leave_{interval}"]
        ]
        sums = (len(counting), *(sum(row[f"{name}_{interval}"] for row in counting) for name in ("late", "minutes")))
        answer |= {f"{name}_{interval}": total for name, total in zip(SUMS[interval], sums, strict=True)}
    return answer


def partition(*keys: str, span: int = SPAN):
    return sums_in_partition(keys, SUMS, span, "event", "at")


def batches(rows: list[dict], size: int) -> list[pa.RecordBatch]:
    kinds = {"colour": pa.string(), "event": pa.string()}
    fields = pa.schema([(name, kinds.get(name, pa.int64())) for name in rows[0]])
    return pa.Table.from_pylist(rows, schema=fields).to_batches(max_chunksize=size)


@pytest.mark.parametrize("size", [7, 10_000])
def test_they_are_what_the_definition_says(size):
    rows = events(400, seed=1)
    answer = partition("colour", "number")(iter(batches(dealt(rows), size)))
    answered = {row["event"]: row for row in pa.Table.from_batches(answer).to_pylist()}
    assert len(answered) == len(rows)
    assert max(row["count_1"] for row in answered.values()) > 5
    for row in rows:
        assert answered[row["event"]] == {"event": row["event"], "at": row["at"], **defined(rows, row)}


def test_without_keys_all_events_are_one_group():
    rows = [row | {"colour": "red", "number": 0} for row in events(100, seed=2)]
    (answer,) = partition()(iter(batches(dealt(rows), 1_000)))
    answered = {row["event"]: row["count_1"] for row in answer.to_pylist()}
    assert answered == {row["event"]: defined(rows, row)["count_1"] for row in rows}


def test_the_answer_has_the_declared_columns():
    (answer,) = partition("colour")(iter(batches(dealt(events(3, seed=3)), 100)))
    assert [column.split()[0] for column in schema(SUMS, "event", "at").split(", ")] == answer.schema.names


def test_an_empty_partition_answers_nothing():
    assert list(partition()(iter([]))) == []
    empty = batches(dealt(events(1, seed=4)), 10)[0].slice(0, 0)
    assert list(partition()(iter([empty]))) == []


def test_more_groups_than_numbers_tell_apart_are_refused():
    rows = [row | {"span": 0} for row in events(3, seed=5)]
    with pytest.raises(ValueError, match="use more partitions"):
        list(partition("event", span=2**62)(iter(batches(rows, 10))))
