"""Linear models that learn from the labels of flights as they arrive, scored next to the deployed model.

    python -m pipelines.flight_delays.online_learning --from 2013-06-01 --to 2013-07-01     what the lake says of June
    python -m pipelines.flight_delays.online_learning --topic                               what the topic holds now
    python -m pipelines.flight_delays.online_learning --topic --follow                      for as long as it lives
    ... --server http://127.0.0.1:8501      asks the deployed model for each flight, too

It goes on where it stopped; told to end (SIGTERM) it stops between two hours. The same events give the same weights,
however often it was stopped. An hour is taken when it is over and takes no more messages. Features are looked up in an
online store, by default one of its own, which it fills with the same events: then nothing depends on how far another
program has come.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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
from pipelines.flight_delays import clock, facts, online
from pipelines.flight_delays.deployed import MODEL, Served, batch_predictions, rates, scores
from pipelines.flight_delays.event_hours import FromTopic, Hour, Lookups, from_lake
from pipelines.flight_delays.events import PLAN_LEAD, Event, Plan, minute
from pipelines.flight_delays.prequential import Answer, Book, Prequential
from streaming import status
from streaming.draining import told_to_end
from streaming.topics import servers

_LOG = logging.getLogger(__name__)
MODULE = "pipelines.flight_delays.online_learning"
"""The name of this module, which is another one where it is started."""
NAME = "flight_delays_learning"
"""Of the program that follows the topic."""
COMMIT_HOURS = 24
"""A run over the lake writes its state down so often, in hours of events; one that follows the topic, each hour."""
PROGRESS_S = 5.0
SHARE = 0.05
"""While the topic is followed, writing the page takes so much of the time, at most."""


def run(
    learner: Prequential,
    lookups: Lookups,
    book: Book,
    hours: Iterator[Hour],
    start: datetime | None,
    *,
    done: Callable[[Sequence[Hour]], None] = lambda hours: None,
    commit_hours: int = COMMIT_HOURS,
    ended: Callable[[], bool] = lambda: False,
) -> None:
    """Takes hours, and writes the state down now and then, and at the end.

    Args:
      learner: Predicts and learns.
      lookups: Where it looks features up.
      book: Where the state is kept.
      hours: In order; those that were taken already only fill the store.
      start: Before it nothing is predicted and learned; None for no such instant.
      done: Is told of hours whose work is written down.
      commit_hours: After so many the state is written down.
      ended: Says after each hour whether that was the last.
    """
    answers: list[Answer] = []
    taken: list[Hour] = []
    said = time.monotonic()

    def commit() -> None:
        if taken and learner.hour is not None:
            book.write(learner.state(), answers)
            done(taken)
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
        if time.monotonic() - said >= PROGRESS_S:
            said = time.monotonic()
            at = hour.events[-1].at.isoformat(" ", "minutes")
            _LOG.info("%s  %s  %s", at, dict(learner.counts), rates(*scores(book)))
        if ended():
            break
    commit()


def _plans_from(told: Sequence[Event], start: datetime) -> list[Event]:
    """Of flights whose cut-off is not before an instant."""
    return [each for each in told if isinstance(each, Plan) and clock.cutoff(each.scheduled_departure) >= start]


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
    add("--follow", action="store_true", help="with --topic: go on at its end")
    add("--state", type=Path, help="file of what was learned; by default in the state folder")
    add("--store", default="", help="online store that somebody else fills; by default one of its own")
    add("--server", default="", help="REST address of the deployed model's server, to ask it for each flight")
    add("--predictions", type=Path, help="folder of batch predictions, for flights of which no server was asked")
    add("--report", type=Path, help="the page; by default in the state folder")
    return parser


class _Report:
    """The page, written again as answers come.

    Args:
      path: The file.
      learner: Whose counts it tells.
      book: Where the answers are.
      predictions: Folder of batch predictions, or None.
    """

    def __init__(self, path: Path, learner: Prequential, book: Book, predictions: Path | None) -> None:
        self.path, self._learner, self._book, self._predictions = path, learner, book, predictions
        self._next = 0.0

    def write(self) -> str:
        """Writes it, and tells the rates."""
        began = time.monotonic()
        told, said = scores(self._book, self._predictions)
        title = "Online learning" + (f", {told['day'][0]} to {told['day'][-1]}" if len(told["day"]) else "")
        write_text(self.path, page(title, told["day"], told["label"], said, self._learner.counts))
        now = time.monotonic()
        self._next = now + (now - began) / SHARE
        return rates(told, said)

    def refresh(self) -> None:
        """Writes it, unless that was done just now for what it costs."""
        if time.monotonic() >= self._next:
            self.write()


def learn(
    flags: argparse.Namespace,
    home: Home,
    planes: online.Planes | None = None,
    ended: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Path:
    """Does what the command line says.

    Args:
      flags: Of `_parser`.
      home: The state folder.
      planes: The register of aircraft; by default that of the lake.
      ended: Says whether to stop, between two hours.
      settings: Other fields of the topic's source, for tests.

    Returns:
      The report.

    Raises:
      TerminalError: The state is damaged, or there is nothing to read.
      TransientError: Broker, model server or store are away.
    """
    if flags.predictions is not None:
        # What is missing is told before a year is learned.
        batch_predictions(flags.predictions)
    path = flags.state or home.path / "stream" / "online_learning.sqlite"
    server = ModelServer(flags.server) if flags.server else None
    store = facts.store(flags.store or str(path.with_suffix(".store.sqlite")))
    lookups = Lookups(store, online.planes_of_lake() if planes is None else planes, own=not flags.store)
    book = Book(path)
    try:
        # Who follows for ever begins before the first model is pushed.
        deployed = None if server is None else Served(server, may_lack=flags.follow)
        learner = Prequential(lookups, deployed, book.state())
        report = _Report(flags.report or home.reports(MODEL) / "online_learning.html", learner, book, flags.predictions)
        if flags.topic:
            accounts = path.with_suffix(".accounts.sqlite")
            topic = FromTopic(servers(), learner, lookups, accounts, follow=flags.follow, ended=ended, **settings)
            with contextlib.closing(topic):
                if flags.follow and flags.state is None:
                    status.started(home, NAME, MODULE, topic.source, report.path)

                def done(hours: Sequence[Hour]) -> None:
                    topic.done(hours)
                    if flags.follow:
                        report.refresh()

                last = minute(flags.end) // 60 if flags.end else None
                up_to = itertools.takewhile(lambda hour: last is None or hour.number < last, topic)
                every = 1 if flags.follow else COMMIT_HOURS
                run(learner, lookups, book, up_to, flags.start, done=done, commit_hours=every, ended=ended)
        else:
            hours = from_lake(home.lake, learner, lookups, flags.start, flags.end)
            run(learner, lookups, book, hours, flags.start, ended=ended)
        if ended():
            _LOG.info("Told to end: the next start goes on at the hour after this one.")
        _LOG.info("%s  %s", dict(learner.counts), report.write())
        return report.path
    finally:
        book.close()
        store.close()
        if server is not None:
            server.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Learns, and writes the report; the exit status tells a fault's family as `airtight.errors` numbers them."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    parser = _parser()
    flags = parser.parse_args(arguments)
    if not flags.topic and (flags.end is None or flags.store):
        parser.error("without --topic, say --to and no --store")
    if flags.follow and not flags.topic:
        parser.error("--follow needs --topic")
    try:
        with told_to_end() as ended:
            report = learn(flags, Home.current(), ended=ended)
    except AirtightError as error:
        _LOG.error("%s", error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    _LOG.info("The report: %s", report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
