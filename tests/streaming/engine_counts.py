"""A small stream for tests of the engine: counts and sums by key and minute, appended to a file as lines of JSON."""

from __future__ import annotations

import functools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.transforms import window
from kafka import KafkaProducer

from tests import waiting

MINUTE_S = 60
START_S = 1_370_044_800
"""2013-06-01."""
STEP_S = 0.1
"""Between two events."""
KEYS = 20
until = functools.partial(waiting.until, patience_s=600)
"""On a machine that does much else a Python worker takes minutes to start."""
Counts = dict[tuple[str, int], tuple[int, int]]
"""How many and their sum, by key and the minute's start."""


class CountAndSum(beam.CombineFn):
    def create_accumulator(self) -> tuple[int, int]:
        return 0, 0

    def add_input(self, accumulator: tuple[int, int], value: int) -> tuple[int, int]:
        return accumulator[0] + 1, accumulator[1] + value

    def merge_accumulators(self, accumulators: Iterable[tuple[int, int]]) -> tuple[int, int]:
        counts, sums = zip(*accumulators, strict=True)
        return sum(counts), sum(sums)

    def extract_output(self, accumulator: tuple[int, int]) -> tuple[int, int]:
        return accumulator


class AppendLines(beam.DoFn):
    """A row may be written twice after a fault; by key and minute the last one counts, and they must be equal."""

    def __init__(self, path: str) -> None:
        self._path = path

    def process(self, row: tuple[str, tuple[int, int]], part: Any = beam.DoFn.WindowParam) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps([row[0], int(part.start), *row[1]]) + "\n")


def _decode(event: tuple[bytes, bytes]) -> tuple[str, int]:
    return event[0].decode(), int(event[1])


def counts_to(path: Path, source: Callable[[], beam.PTransform], name: str = "") -> Callable[[beam.Pipeline], Any]:
    """The stream's steps after a source; Beam's transforms belong to one pipeline, so each gets one of its own.

    With another name its steps have other names, as those of other code.
    """

    def build(pipeline: beam.Pipeline) -> Any:
        return (
            pipeline
            | f"{name}events" >> source()
            | "decode" >> beam.Map(_decode).with_output_types(tuple[str, int])
            | "minutes" >> beam.WindowInto(window.FixedWindows(MINUTE_S))
            | f"{name}count" >> beam.CombinePerKey(CountAndSum())
            | "write" >> beam.ParDo(AppendLines(str(path)))
        )

    return build


def read_counts(path: Path) -> Counts:
    """What the file says; a row that was written twice must have been written alike."""
    counts: Counts = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        key, minute, count, total = json.loads(line)
        assert counts.get((key, minute), (count, total)) == (count, total), "written again, and otherwise"
        counts[key, minute] = (count, total)
    return counts


def expected(numbers: Sequence[int]) -> Counts:
    """The counts of some events."""
    counts: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    for number in numbers:
        cell = counts[f"K{number % KEYS:02d}", int((START_S + number * STEP_S) // MINUTE_S) * MINUTE_S]
        cell[0] += 1
        cell[1] += number % 97
    return {place: (count, total) for place, (count, total) in counts.items()}


def produce(servers: str, topic: str, numbers: Iterable[int], *, partitions: int, rate: float = 0.0) -> None:
    """Publishes events in the order of their times.

    Args:
      servers: The brokers.
      topic: Of at least so many partitions.
      numbers: Of the events; each follows the one before it by STEP_S.
      partitions: The first ones, that are written to.
      rate: Events a second; 0 is as fast as it goes.
    """
    with KafkaProducer(bootstrap_servers=servers, linger_ms=10) as producer:
        start, sent = time.monotonic(), []
        for index, number in enumerate(numbers):
            message = producer.send(
                topic,
                key=f"K{number % KEYS:02d}".encode(),
                value=str(number % 97).encode(),
                partition=number // KEYS % partitions,
                timestamp_ms=round((START_S + number * STEP_S) * 1000),
            )
            sent.append(message)
            if rate and (early := index / rate - (time.monotonic() - start)) > 0:
                time.sleep(early)
        producer.flush()
        for message in sent:
            message.get(0)  # Raises where the broker did not take it.


def close_windows(servers: str, topic: str, after: int) -> None:
    """One event a day later, in one partition: those that have nothing to read follow it."""
    with KafkaProducer(bootstrap_servers=servers) as producer:
        at = round((START_S + after * STEP_S + 86_400) * 1000)
        producer.send(topic, key=b"END", value=b"0", partition=0, timestamp_ms=at).get(60)
