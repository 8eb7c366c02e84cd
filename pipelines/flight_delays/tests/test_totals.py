"""Totals at instants, beside the definition: count what has entered before and has not left before."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.flight_delays.totals import at_instants, names, schema

SPAN = 1_000


def flights(count: int, seed: int) -> list[dict]:
    """Flights of two carriers and an unknown one, with a short and a long life each; every fourth has none."""
    chance = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        cutoff, enter = (int(instant) for instant in chance.integers(0, 5 * SPAN, 2))
        # Instants that are equal are what such sums get wrong.
        cutoff, enter = cutoff // 50 * 50, enter // 50 * 50
        row = {
            "carrier": ["AA", "UA", None][number % 3],
            "number": number % 2,
            "flight_id": f"f{number}",
            "cutoff": cutoff,
        }
        for life, length in enumerate((200, SPAN)):
            there = number % 4 > 0
            row |= {
                f"enter_{life}": enter if there else None,
                f"leave_{life}": enter + length if there else None,
                f"late_{life}": int(chance.integers(0, 2)) if there else None,
                f"minutes_{life}": int(chance.integers(-60, 600)) if there else None,
            }
        rows.append(row)
    return rows


def dealt(rows: list[dict]) -> list[dict]:
    """A row for each span that a flight's cut-off or a life touches, as Spark deals them."""
    found = []
    for row in rows:
        ends = [row["cutoff"], *(row[f"{end}_{n}"] for end in ("enter", "leave") for n in (0, 1))]
        spans = [end // SPAN for end in ends if end is not None]
        found += [row | {"span": span} for span in range(min(spans), max(spans) + 1)]
    return found


def defined(rows: list[dict], asked: dict) -> dict[str, int]:
    """The totals of one flight, by definition."""
    told = {}
    for life in (0, 1):
        alive = [
            row
            for row in rows
            if (row["carrier"], row["number"]) == (asked["carrier"], asked["number"])
            if row[f"enter_{life}"] is not None
            if row[f"enter_{life}"] < asked["cutoff"] <= row[f"leave_{life}"]
        ]
        sums = (len(alive), *(sum(row[f"{name}_{life}"] for row in alive) for name in ("late", "minutes")))
        told |= dict(zip(names(life), sums, strict=True))
    return told


def batches(rows: list[dict], size: int) -> list[pa.RecordBatch]:
    kinds = {"carrier": pa.string(), "flight_id": pa.string()}
    fields = pa.schema([(name, kinds.get(name, pa.int64())) for name in rows[0]])
    return pa.Table.from_pylist(rows, schema=fields).to_batches(max_chunksize=size)


@pytest.mark.parametrize("size", [7, 10_000])
def test_they_are_what_the_definition_says(size):
    rows = flights(400, seed=1)
    answer = at_instants(("carrier", "number"), 2, SPAN)(iter(batches(dealt(rows), size)))
    told = {row["flight_id"]: row for row in pa.Table.from_batches(answer).to_pylist()}
    assert len(told) == len(rows)
    assert max(row["count_1"] for row in told.values()) > 5
    for row in rows:
        assert told[row["flight_id"]] == {"flight_id": row["flight_id"], "cutoff": row["cutoff"], **defined(rows, row)}


def test_without_keys_all_flights_are_one_group():
    rows = [row | {"carrier": "AA", "number": 0} for row in flights(100, seed=2)]
    (answer,) = at_instants((), 2, SPAN)(iter(batches(dealt(rows), 1_000)))
    told = {row["flight_id"]: row["count_1"] for row in answer.to_pylist()}
    assert told == {row["flight_id"]: defined(rows, row)["count_1"] for row in rows}


def test_the_answer_has_the_declared_columns():
    (answer,) = at_instants(("carrier",), 2, SPAN)(iter(batches(dealt(flights(3, seed=3)), 100)))
    assert [column.split()[0] for column in schema(2).split(", ")] == answer.schema.names


def test_an_empty_partition_answers_nothing():
    assert list(at_instants((), 2, SPAN)(iter([]))) == []
    empty = batches(dealt(flights(1, seed=4)), 10)[0].slice(0, 0)
    assert list(at_instants((), 2, SPAN)(iter([empty]))) == []


def test_more_groups_than_numbers_tell_apart_are_refused():
    rows = [row | {"span": 0} for row in flights(3, seed=5)]
    with pytest.raises(ValueError, match="use more partitions"):
        list(at_instants(("flight_id",), 2, 2**62)(iter(batches(rows, 10))))
