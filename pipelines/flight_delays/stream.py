"""The stream of flights: events from Kafka, through the windows, into the online store and the lake.

    python -m pipelines.flight_delays.stream                    on Flink, for as long as it lives
    python -m pipelines.flight_delays.stream --to-end           in this process, what the topic holds now
    python -m pipelines.flight_delays.stream --predictions      the prediction log's windows; with --to-end or without
    python -m pipelines.flight_delays.stream --offsets '{"0": [0, 900]}' --out DIR     a range of the topic, into files
    python -m pipelines.flight_delays.stream --lake 2013-06-01 2013-06-08 --out DIR    the lake's events of some days

Whenever and however it was stopped, it goes on where it stopped; the state folder's `stream/` keeps where that is.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import apache_beam as beam
from apache_beam.transforms.window import TimestampedValue

from airtight.errors import AirtightError
from airtight.home import Home
from pipelines.flight_delays import clock, facts, topics, windows
from pipelines.flight_delays.events import encode
from pipelines.flight_delays.replay import events
from streaming import prediction_windows, run, status
from streaming.accounts import Accounts
from streaming.draining import drained
from streaming.reader import Source
from streaming.sink import WriteHours
from streaming.sorting import Batch, encode_batch, place
from streaming.source import ReadHours
from streaming.store import KEEP_MINUTES, SqliteStore, Store
from streaming.topics import servers
from streaming.window_rows import WriteWindowRows

_LOG = logging.getLogger(__name__)
KEEP_DAYS = 100
"""The accounts keep what was read and written for so many days of event time; longer than the store keeps anything."""
MODULE = "pipelines.flight_delays.stream"
"""The name of this module, which is another one where it is started."""


def accounts_of(home: Home) -> Path:
    """The accounts' file of the stream of flights."""
    return home.path / "stream" / "flights.sqlite"


def totals_of(home: Home) -> Path:
    """The folder of the totals that the stream writes into the lake."""
    return home.lake / "stream" / "totals"


def source_of(home: Home, **settings: Any) -> Source:
    """The stream's source.

    Args:
      home: The state folder.
      settings: Other fields of `Source`.
    """
    told: dict[str, Any] = {
        "servers": servers(),
        "topic": topics.EVENTS.name,
        "dead_letters": topics.DEAD_LETTERS.name,
        "accounts": accounts_of(home),
        "hour_of": windows.hour_of,
        "lateness_s": windows.ALLOWED_LATENESS_S,
        "keep_days": KEEP_DAYS,
    }
    return Source(**{**told, **settings})


def from_kafka(source: Source, home: Home, store: str = "", to_end: bool = False) -> run.Build:
    """The pipeline over the topic, from where it stopped.

    Args:
      source: What is read.
      home: The state folder.
      store: The online store's address; empty for the usual one.
      to_end: Whether it ends with what the topic holds now.
    """
    _believe(facts.store(store), source.accounts)
    ends = {number: end for number, (_, end) in source.logs().items()} if to_end else None
    number, ranges = source.begin(ends)

    def build(pipeline: beam.Pipeline) -> None:
        batches = pipeline | "events" >> ReadHours(source, number, ranges)
        hours = batches | "windows" >> windows.FlightWindows(follow=not to_end)
        _ = hours | "sink" >> WriteHours(functools.partial(facts.store, store), totals_of(home), source.accounts)

    return build


def _believe(store: Store, accounts: Path) -> None:
    """Has hours read again that the store has lost, or a part of them."""
    there = not isinstance(store, SqliteStore) or store.path.exists()
    book = Accounts(accounts)
    try:
        if lost := book.recheck(store.messages if there else lambda _: 0, KEEP_MINUTES // 60):
            _LOG.warning("The online store lacks %d hours that were written; they are read again.", len(lost))
    finally:
        book.close()
        store.close()


def predictions_source(home: Home, **settings: Any) -> Source:
    """The source of the prediction log; as `source_of`."""
    told: dict[str, Any] = {
        "topic": topics.PREDICTIONS.name,
        "accounts": home.path / "stream" / "predictions.sqlite",
        "hour_of": prediction_windows.hour_of,
        "lateness_s": prediction_windows.ALLOWED_LATENESS_S,
        "reach": prediction_windows.REACH_HOURS,
    }
    return source_of(home, **{**told, **settings})


def prediction_rows_of(home: Home) -> Path:
    """The file with the windows of the prediction log, `streaming.window_rows`."""
    return home.path / "stream" / "prediction_windows.sqlite"


def from_predictions(source: Source, home: Home, to_end: bool = False) -> run.Build:
    """The pipeline over the prediction log, from where it stopped; as `from_kafka`."""
    ends = {number: end for number, (_, end) in source.logs().items()} if to_end else None
    number, ranges = source.begin(ends)

    def build(pipeline: beam.Pipeline) -> None:
        batches = pipeline | "predictions" >> ReadHours(source, number, ranges)
        for name in ("fixed", "sliding"):
            rows = batches | name >> prediction_windows.PredictionWindows(name, follow=not to_end)
            _ = rows | f"{name}_sink" >> WriteWindowRows(prediction_rows_of(home), source.accounts)

    return build


def from_offsets(source: Source, offsets: Mapping[int, tuple[int, int]], totals: Path) -> run.Build:
    """The same pipeline over a range of the topic, into files alone.

    Args:
      source: What is read; it must have accounts of its own.
      offsets: The first offset and that after the last, by partition.
      totals: Folder of the files.
    """
    starts, ends = ({number: range_[side] for number, range_ in offsets.items()} for side in (0, 1))
    number, ranges = source.begin(ends, starts)

    def build(pipeline: beam.Pipeline) -> None:
        batches = pipeline | "events" >> ReadHours(source, number, ranges)
        hours = batches | "windows" >> windows.FlightWindows(follow=False)
        _ = hours | "sink" >> WriteHours(None, totals, source.accounts)

    return build


def from_lake(lake: Path, start: datetime, end: datetime, totals: Path) -> run.Build:
    """The same pipeline over what became known in [start, end), as the lake has it, into files alone.

    Args:
      lake: Folder of the lake.
      start: A whole hour.
      end: A whole hour.
      totals: Folder of the files.
    """

    def build(pipeline: beam.Pipeline) -> None:
        batches = (
            pipeline
            | "interval" >> beam.Create([(str(lake), start.isoformat(), end.isoformat())])
            | "events" >> beam.ParDo(_FromLake()).with_output_types(tuple[int, bytes])
        )
        _ = batches | "windows" >> windows.FlightWindows(follow=False) | "sink" >> WriteHours(None, totals, None)

    return build


class _FromLake(beam.DoFn):
    def process(self, interval: tuple[str, str, str]) -> Iterator[TimestampedValue]:
        lake, start, end = interval
        for hour, batch in _hours(Path(lake), datetime.fromisoformat(start), datetime.fromisoformat(end)):
            yield TimestampedValue((hour, encode_batch(batch)), hour * windows.HOUR_S)


def _hours(lake: Path, start: datetime, end: datetime) -> Iterator[tuple[int, Batch]]:
    current, batch = 0, Batch([], [], [])
    for number, event in enumerate(events(lake, start, end)):
        at = event.at.timestamp()
        if (hour := int(at // windows.HOUR_S)) != current and batch.places:
            yield current, batch
            batch = Batch([], [], [])
        current = hour
        batch.places.append(place(0, number))
        batch.published.append(int(at * 1000))
        batch.values.append(encode(event))
    if batch.places:
        yield current, batch


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line says.

    Returns:
      The exit status: 0, or that of a fault that may or may not heal.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to-end", action="store_true", help="in this process, to the end that the topic has now")
    parser.add_argument("--predictions", action="store_true", help="the prediction log in place of the flights")
    parser.add_argument("--topic", default=topics.EVENTS.name, help="the topic of the events; %(default)s")
    parser.add_argument("--lake", nargs=2, type=date.fromisoformat, metavar="DAY", help="from a day to before another")
    parser.add_argument("--offsets", type=json.loads, help="first offset and that after the last by partition, JSON")
    parser.add_argument("--out", type=Path, help="folder of the totals' files, with --lake and --offsets")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    home = Home.current()
    try:
        if (given.lake or given.offsets) and given.out is None:
            parser.error("--lake and --offsets need --out")
        if given.offsets:
            offsets = {int(number): (first, end) for number, (first, end) in given.offsets.items()}
            source = source_of(home, topic=given.topic, accounts=given.out / "accounts.sqlite")
            run.in_process(from_offsets(source, offsets, given.out))
            return 0
        if given.lake:
            ends = [datetime.combine(day, time(), ZoneInfo(clock.ZONE)) for day in given.lake]
            run.in_process(from_lake(home.lake, ends[0], ends[1], given.out))
            return 0
        if given.predictions:
            name, source = "flight_delays_predictions", predictions_source(home)
            build = from_predictions(source, home, to_end=given.to_end)
        else:
            name, source = "flight_delays", source_of(home, topic=given.topic)
            build = from_kafka(source, home, to_end=given.to_end)
        if given.to_end:
            run.in_process(build)
        else:
            status.started(home, name, MODULE, source)
            job = run.on_flink(build, name)
            with drained(job):
                run.waited(job)
    except AirtightError as error:
        _LOG.error("%s", error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
