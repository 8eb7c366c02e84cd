"""Linear models that learn from the labels of flights as they arrive, scored next to the deployed model.

    python -m pipelines.flight_delays.online_learning --from 2013-06-01 --to 2013-07-01     what the lake says of June
    python -m pipelines.flight_delays.online_learning --topic                               what the topic holds now
    ... --server http://127.0.0.1:8501      asks the deployed model for each flight, too

It goes on where it stopped, or was killed. The same events give the same weights, however often that happened. An hour
is taken when it is over and takes no more messages. Features are looked up in an online store, by default one of its
own, which it fills with the same events: then nothing depends on how far another program has come.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from datetime import time as clock_time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from airtight.errors import AirtightError
from airtight.files import write_text
from airtight.home import Home
from components.modelling.model_server import ModelServer
from components.reports.online_learning import page
from pipelines.flight_delays import clock, online
from pipelines.flight_delays.deployed import Served, batch_predictions, rates, scores
from pipelines.flight_delays.event_hours import Hour, Lookups, from_lake
from pipelines.flight_delays.events import PLAN_LEAD, Event, Plan, minute
from pipelines.flight_delays.prequential import Answer, Book, Prequential
from pipelines.flight_delays.streams import STREAM
from pipelines.flight_delays.topic_hours import from_topic
from streaming.topics import servers
from streaming.windows.store import opened

_LOG = logging.getLogger(__name__)
NAME = "flight_delays_learning"
"""Of the DAG, whose tab shows the page."""
COMMIT_HOURS = 24
"""How often the state is written, in hours of events."""
PROGRESS_S = 5.0


def run(
    learner: Prequential,
    lookups: Lookups,
    book: Book,
    hours: Iterator[Hour],
    start: datetime | None,
    *,
    commit_hours: int = COMMIT_HOURS,
) -> None:
    """Takes hours, and writes the state now and then, and at the end.

    Args:
      learner: Predicts and learns.
      lookups: Where it looks features up.
      book: Where the state is kept.
      hours: In order; those that were taken already only fill the store.
      start: Before it nothing is predicted and learned; None for no such instant.
      commit_hours: After how many hours the state is written.
    """
    answers: list[Answer] = []
    taken: list[Hour] = []
    reported = time.monotonic()

    def commit() -> None:
        if taken and learner.hour is not None:
            book.write(learner.state(taken[-1].offsets), answers)
        answers.clear()
        taken.clear()

    for hour in hours:
        lookups.feed(hour)
        if start is None or hour.number * 60 >= minute(start):
            answers += learner.take(hour.number, hour.events)
        elif (hour.number + 1) * 60 > minute(start - PLAN_LEAD):
            answers += learner.take(hour.number, _plans_from(hour.events, start))
        taken.append(hour)
        if len(taken) >= commit_hours:
            commit()
        if time.monotonic() - reported >= PROGRESS_S:
            reported = time.monotonic()
            at = datetime.fromtimestamp(hour.number * 3600, UTC).isoformat(" ", "minutes")
            _LOG.info("%s  %s  %s", at, dict(learner.counts), rates(*scores(book)))
    commit()


def _plans_from(events: Sequence[Event], start: datetime) -> list[Event]:
    """Of flights whose cut-off is not before an instant."""
    return [event for event in events if isinstance(event, Plan) and clock.cutoff(event.scheduled_departure) >= start]


def _day(text: str) -> datetime:
    """Midnight in New York."""
    return datetime.combine(date.fromisoformat(text), clock_time(), ZoneInfo(clock.ZONE)).astimezone(UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m pipelines.flight_delays.online_learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--from", dest="start", type=_day, help="first day in New York; where something was learned, it goes on there")
    add("--to", dest="end", type=_day, help="day in New York; not included")
    add("--topic", action="store_true", help="the topic in place of the lake")
    add("--state", type=Path, help="file of what was learned; by default in the state folder")
    add("--store", default="", help="online store that the stream of flights fills; by default one of its own")
    add("--server", default="", help="REST address of the deployed model's server, to ask it for each flight")
    add("--predictions", type=Path, help="folder of batch predictions, for flights of which no server was asked")
    add("--report", type=Path, help="the page; by default in the state folder")
    return parser


def learn(flags: argparse.Namespace, home: Home, planes: online.Planes | None = None, **settings: Any) -> Path:
    """Does what the command line says.

    Args:
      flags: Of `_parser`.
      home: The state folder.
      planes: The register of aircraft; by default that of the lake.
      settings: Other arguments of `from_topic`, for tests.

    Returns:
      The report.

    Raises:
      TerminalError: The state is damaged, or there is nothing to read.
      TransientError: Broker, model server or store are away.
    """
    if flags.predictions is not None:
        # Folders without any are an error before a year is learned.
        batch_predictions(flags.predictions)
    path = flags.state or home.path / "stream" / "online_learning.sqlite"
    server = ModelServer(flags.server) if flags.server else None
    store = opened(flags.store or str(path.with_suffix(".windows.sqlite")), STREAM)
    lookups = Lookups(store, online.planes_of_lake() if planes is None else planes, own=not flags.store)
    book = Book(path)
    try:
        # The topic may be learned from before the first model is pushed.
        deployed = None if server is None else Served(server, may_lack=flags.topic)
        state = book.state()
        learner = Prequential(lookups, deployed, state)
        if flags.topic:
            whole = state is not None and (lookups.watermark or 0) >= (state.hour + 1) * 60
            # A store that lost something is filled again from the topic's beginning.
            taken, offsets = (state.hour, state.offsets) if state is not None and whole else (None, {})
            hours = from_topic(servers(), taken, offsets, **settings)
            last = minute(flags.end) // 60 if flags.end else None
            hours = itertools.takewhile(lambda hour: last is None or hour.number < last, hours)
        else:
            hours = from_lake(home.lake, learner, lookups, flags.start, flags.end)
        run(learner, lookups, book, hours, flags.start)
        report = flags.report or home.reports(NAME) / "stream.html"
        rows, model_scores = scores(book, flags.predictions)
        title = "Online learning" + (f", {rows['day'][0]} to {rows['day'][-1]}" if len(rows["day"]) else "")
        write_text(report, page(title, rows["day"], rows["label"], model_scores, learner.counts))
        _LOG.info("%s  %s", dict(learner.counts), rates(rows, model_scores))
        return report
    finally:
        book.close()
        store.close()
        if server is not None:
            server.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Learns, and writes the report; the exit status is the fault's family as `airtight.errors` numbers them."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    parser = _parser()
    flags = parser.parse_args(arguments)
    if not flags.topic and (flags.end is None or flags.store):
        parser.error("without --topic, say --to and no --store")
    try:
        report = learn(flags, Home.current())
    except AirtightError as error:
        _LOG.error("%s", error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    _LOG.info("The report: %s", report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
