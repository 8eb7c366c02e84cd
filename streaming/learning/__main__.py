"""Linear models that learn from the labels of a stream as they arrive, scored next to the deployed model.

    python -m streaming.learning NAME --from 2013-06-01 --to 2013-07-01     what the lake says of June
    python -m streaming.learning NAME --topic                               what the topic holds now
    ... --server http://127.0.0.1:8501      asks the deployed model for each row, too

NAME is a pipeline, whose module `learning` has the declaration as LEARNING, or an import string of it. It goes on
where it stopped, or was killed. The same events give the same weights, however often that happened. An hour is taken
when it is over and takes no more messages. Features are looked up in a store of the stream, by default one of its own,
which it fills with the same events: then nothing depends on how far another program has come.
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
from components.reports.online_learning import AUC, ERROR, Figure, page
from streaming.learning.book import Book
from streaming.learning.declaration import Due, Learning, declared
from streaming.learning.deployed import batch_predictions, rates, scores, served
from streaming.learning.hours import HOUR_S, FeatureStore, Hour, from_lake
from streaming.learning.prequential import Answer, Prequential
from streaming.learning.topic import from_topic
from streaming.topics import servers
from streaming.windows.store import opened

_LOG = logging.getLogger(__name__)
COMMIT_HOURS = 24
"""How often the state is written, in hours of events."""
PROGRESS_S = 5.0


def run(
    learner: Prequential,
    features: FeatureStore,
    book: Book,
    hours: Iterator[Hour],
    start: datetime | None,
    *,
    commit_hours: int = COMMIT_HOURS,
) -> None:
    """Takes hours, and writes the state now and then, and at the end.

    Args:
      learner: Predicts and learns.
      features: Where it looks features up.
      book: Where the state is kept.
      hours: In order; those that were taken already only fill the store.
      start: Rows whose cut-off is earlier are neither predicted nor learned; None for no such instant.
      commit_hours: After how many hours the state is written.
    """
    learning = features.learning
    answers: list[Answer] = []
    taken: list[Hour] = []
    reported = time.monotonic()

    def commit() -> None:
        if taken and learner.hour is not None:
            book.write(learner.state(taken[-1].offsets, taken[-1].read, taken[-1].topic), answers)
        answers.clear()
        taken.clear()

    for hour in hours:
        features.feed(hour)
        known, first_s = hour.known, start.timestamp() if start else 0.0
        is_before = hour.number * HOUR_S < first_s
        if is_before:
            known = [(at, row) for at, row in known if isinstance(row, Due) and row.cutoff * 60 >= first_s]
        if known or not is_before:
            answers += learner.take(hour.number, known)
        taken.append(hour)
        if len(taken) >= commit_hours:
            commit()
        if time.monotonic() - reported >= PROGRESS_S:
            reported = time.monotonic()
            at = datetime.fromtimestamp(hour.number * HOUR_S, UTC).isoformat(" ", "minutes")
            _LOG.info("%s  %s  %s", at, dict(learner.counts), rates(*scores(book, learning), _figure(learning)))
    commit()


def _figure(learning: Learning) -> Figure:
    return AUC if learning.schema.task == "binary" else ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m streaming.learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("pipeline", help="name of a pipeline, or import string of a declaration")
    day = date.fromisoformat
    add("--from", dest="start", type=day, help="first local day; where something was learned, it goes on there")
    add("--to", dest="end", type=day, help="local day; not included")
    add("--topic", action="store_true", help="the topic in place of the lake")
    add("--state", type=Path, help="file of what was learned; by default in the state folder")
    add("--store", default="", help="store that the stream's job fills; by default one of its own")
    add("--server", default="", help="REST address of the deployed model's server, to ask it for each row")
    add("--predictions", type=Path, help="folder of batch predictions, for rows of which no server was asked")
    add("--report", type=Path, help="the page; by default in the state folder")
    return parser


def learn(flags: argparse.Namespace, home: Home, **settings: Any) -> Path:
    """Does what the command line says.

    Args:
      flags: Of `_parser`.
      home: The state folder.
      settings: Other arguments of `from_topic`, for tests.

    Returns:
      The report.

    Raises:
      TerminalError: The state is damaged, or there is nothing to read.
      TransientError: Broker, model server or store are away.
    """
    learning = declared(flags.pipeline)
    zone = ZoneInfo(learning.zone)
    start, end = (day and datetime.combine(day, clock_time(), zone).astimezone(UTC) for day in (flags.start, flags.end))
    if flags.predictions is not None:
        # Folders without any are an error before a year is learned.
        batch_predictions(flags.predictions, learning)
    path = flags.state or home.path / "stream" / f"{learning.report}.sqlite"
    server = ModelServer(flags.server) if flags.server else None
    store = opened(flags.store or str(path.with_suffix(".windows.sqlite")), learning.stream)
    features = FeatureStore(store, learning, own=not flags.store)
    book = Book(path)
    try:
        # The topic may be learned from before the first model is pushed.
        deployed = None if server is None else served(learning, server, may_lack=flags.topic)
        state = book.state()
        learner = Prequential(learning, features, deployed, state)
        if flags.topic:
            # A store that lost something is filled again from the topic's beginning.
            known = state if state is not None and (features.watermark or 0) >= (state.hour + 1) * 60 else None
            hours = from_topic(
                learning,
                servers(),
                taken=known.hour if known else None,
                offsets=known.offsets if known else {},
                topic_id=known.topic if known else "",
                read=known.read if known else {},
                **settings,
            )
            last = int(end.timestamp()) // HOUR_S if end else None
            hours = itertools.takewhile(lambda hour: last is None or hour.number < last, hours)
        else:
            hours = from_lake(home.lake, learner, features, start, end)
        run(learner, features, book, hours, start)
        report = flags.report or home.reports(learning.report) / "stream.html"
        rows, by_model = scores(book, learning, flags.predictions)
        title = "Online learning" + (f", {rows['day'][0]} to {rows['day'][-1]}" if len(rows["day"]) else "")
        figure = _figure(learning)
        write_text(report, page(title, rows["day"], rows["label"], by_model, learner.counts, figure))
        _LOG.info("%s  %s", dict(learner.counts), rates(rows, by_model, figure))
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
