"""Runs a pipeline's declared stream.

    python -m streaming.windows bike_demand                       on Flink, from where it stopped
    python -m streaming.windows bike_demand --anew                on Flink, from the beginning of its topics
    python -m streaming.windows bike_demand --upgrade             the same with this code, by a savepoint; or started
    python -m streaming.windows bike_demand --stop                ended with a savepoint, from which it goes on
    python -m streaming.windows bike_demand --to-end              in this process, what its topics hold now
    python -m streaming.windows bike_demand --lake FROM TO        in this process, the windows of these days by the lake
    python -m streaming.windows bike_demand --publish FROM TO     the lake's messages of these days into its topic
    ... --speed 3600                                              as they became known, an hour in a second

The name is a pipeline's, whose module `streams` has the declaration as STREAM, or an import string of it. FROM and TO
are ISO 8601, days or instants, of the stream's zone where they say no offset. The windows that --lake writes are whole
and may take the place of the stream's own; those that FROM or TO cuts are left. A message that is published bears the
time of the replay; one that is broken off says from where to go on, and what is published twice counts once where
events have an identity. Other options are those of Flink and Beam.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from apache_beam.options.pipeline_options import PipelineOptions
from kafka import KafkaConsumer
from kafka.errors import KafkaError

from airtight.errors import AirtightError, TransientError
from airtight.home import Home
from streaming.engine import addresses, flink_jobs, job_records
from streaming.engine.flink_rest import Flink
from streaming.engine.kafka_source import ReadOffsets, whole_topics
from streaming.engine.options import StreamOptions
from streaming.engine.stream_status import code_of, iso
from streaming.run import in_process
from streaming.topics import SERVERS, ensure, servers
from streaming.windows import publishing, replay
from streaming.windows.declaration import Stream, declared, modules_of
from streaming.windows.lake_source import build_span
from streaming.windows.pipeline import build, from_kafka
from streaming.windows.store import STORE, address_of

UNCACHED = ("--max_cache_memory_usage_mb=0",)
"""Beam's cache of state takes milliseconds to measure each entry; `versions.py` has its own."""
IDLE = "AIRTIGHT_STREAM_IDLE_S"
"""Environment variable with the idleness of streams whose messages are published as they happen, seconds."""
_LOG = logging.getLogger(__name__)


def ensure_topics(stream: Stream, address: str) -> None:
    """Makes the topics of a stream that are not there, as it declares them; those that are stay as they are.

    Raises:
      TerminalError: A topic cannot be made as it is declared.
      TransientError: The broker does not answer.
    """
    try:
        with KafkaConsumer(bootstrap_servers=address.split(",")) as consumer:
            there = consumer.topics()
    except KafkaError as error:
        raise TransientError(
            "Kafka does not answer.",
            expected=f"a broker at {address}",
            received=str(error) or type(error).__name__,
            remedy="Start it: make kafka; or name another by AIRTIGHT_KAFKA.",
        ) from error
    if missing := [topic for topic in stream.all_topics if topic.name not in there]:
        ensure(address, missing)


def _instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no ISO 8601 day or instant") from error


def _speed(text: str) -> float:
    if text == "max":
        return 0.0
    if (speed := float(text)) < 0:
        raise argparse.ArgumentTypeError("a speed is 0 or more")
    return speed


def _partitions(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _span(instants: list[datetime], stream: Stream) -> tuple[datetime, datetime]:
    """Two instants in UTC; without an offset they are of the stream's zone."""
    zone = ZoneInfo(stream.zone)
    start, end = ((one if one.tzinfo else one.replace(tzinfo=zone)).astimezone(UTC) for one in instants)
    return start, end


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m streaming.windows", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", help="name of a pipeline, or import string of a declaration")
    parser.add_argument("--store", default="", help=f"path or redis://..., by default as {STORE} names it")
    parser.add_argument("--servers", default="", help=f"the broker; by default what {SERVERS} names")
    parser.add_argument("--tables", type=Path, help="folder of the lake; by default that of the state folder")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--anew", action="store_true", help="from the beginning of the topics")
    how.add_argument("--upgrade", action="store_true", help="stop it with a savepoint, and go on with this code")
    how.add_argument("--stop", action="store_true", help="end it with a savepoint")
    how.add_argument("--to-end", action="store_true", help="in this process, what the topics hold now")
    how.add_argument("--lake", nargs=2, type=_instant, metavar=("FROM", "TO"), help="in this process, from the lake")
    how.add_argument("--publish", nargs=2, type=_instant, metavar=("FROM", "TO"), help="from the lake into the topic")
    parser.add_argument(
        "--idle-s",
        type=float,
        default=os.environ.get(IDLE) or None,
        help="on Flink: seconds of silence after which event time goes on by the clock, for messages that are "
        f"published as they happen; by default what {IDLE} says, then as the job had it, then as it is declared",
    )
    add = parser.add_argument_group("with --publish").add_argument
    add("--speed", type=_speed, default=0.0, help="seconds of the replay in one second; 0 or max: as fast as it goes")
    add("--shuffle-minutes", type=float, default=0.0, help="each message arrives up to so much later")
    add("--seed", type=int, default=0, help="of that chance")
    add("--partitions", type=_partitions, default=(), help="only to these, such as 0,2")
    return parser


def _run(options: argparse.Namespace, arguments: list[str]) -> None:
    stream, home = declared(options.pipeline), Home.current()
    store = options.store or address_of(stream, home)
    tables = options.tables or home.lake
    if options.lake:
        in_process(build_span(stream, tables, *_span(options.lake, stream), store))
        return
    address = options.servers or servers()
    flink = Flink(PipelineOptions(arguments).view_as(StreamOptions).flink_rest)
    if options.stop:
        _stop(flink, stream, home)
        return
    ensure_topics(stream, address)
    if options.publish:
        start, end = _span(options.publish, stream)
        minutes = options.shuffle_minutes
        messages = publishing.delayed(replay.messages(stream, tables, start, end), minutes, options.seed)
        pace, topic = publishing.Pace(start, options.speed), stream.topics[0]
        partitions = options.partitions
        count = publishing.publish(address, topic, messages, pace, partitions=partitions, spread_minutes=minutes)
        _LOG.info("%d messages are in %s.", count, topic)
    elif options.to_end:
        source = ReadOffsets(address, whole_topics(address, stream.topics))
        in_process(build(stream, source, store, follow=False, servers=address))
    else:
        # Before the submission, which may take minutes: of what is written to the checkout meanwhile nothing runs.
        code = code_of(*modules_of(options.pipeline))
        running = flink.running(stream.name)
        if running and options.upgrade:
            _stop(flink, stream, home)
        elif running and not options.anew:
            _LOG.info("The job %s runs already: %s. New code: --upgrade.", running.name, running.id)
            return
        before = job_records.load(stream.name, home) or job_records.JobRecord(stream.name, "")
        idle_s = before.idle_s if options.idle_s is None else options.idle_s
        if idle_s is not None:
            stream = replace(stream, bounds=replace(stream.bounds, idle_s=idle_s))
        slots = PipelineOptions(arguments).view_as(StreamOptions).slots or before.slots or addresses.taskmanagers()
        steps = build(stream, from_kafka(stream, address), store, follow=True, servers=address)
        begin = flink_jobs.submit if options.anew else flink_jobs.resume
        job = begin(
            steps,
            stream.name,
            [*UNCACHED, *arguments, f"--slots={slots}"],
            home=home,
            submitted=iso(time.time()),
            code=code,
            servers=address,
            topics=stream.topics,
            dead_letters=stream.dead_letters,
            slots=slots,
            idle_s=idle_s,
        )
        _LOG.info("The job %s runs: %s. Its store is %s.", job.name, job.id, store)


def _stop(flink: Flink, stream: Stream, home: Home) -> None:
    path = job_records.stop(flink, stream.name, home)
    _LOG.info("The job %s has ended with %s.", stream.name, path or "nothing to go on from")


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line says.

    Returns:
      The exit status: 0, or that of a fault that may or may not heal.
    """
    options, others = _parser().parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    try:
        _run(options, others)
    except AirtightError as error:
        _LOG.error("%s", error)
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
