"""Runs a pipeline's declared stream.

    python -m streaming.windows bike_demand                       on Flink, from where it stopped
    python -m streaming.windows bike_demand --anew                on Flink, from the beginning of its topics
    python -m streaming.windows bike_demand --upgrade             the same with this code, by a savepoint; or started
    python -m streaming.windows bike_demand --stop                ended with a savepoint, from which it goes on
    python -m streaming.windows bike_demand --to-end              in this process, what its topics hold now
    python -m streaming.windows bike_demand --lake FROM TO        in this process, what the lake has of these days
    python -m streaming.windows bike_demand --publish FROM TO     the lake's messages of these days into its topic

The name is a pipeline's, whose module `streams` has the declaration as STREAM, or an import string of it. FROM and TO
are ISO 8601, days or instants, UTC where they say no offset. Other options are those of Flink and Beam.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

from apache_beam.options.pipeline_options import PipelineOptions
from kafka import KafkaConsumer
from kafka.errors import KafkaError

from airtight.errors import AirtightError, TransientError
from airtight.home import Home
from streaming.engine import flink_jobs, job_records
from streaming.engine.flink_rest import Flink
from streaming.engine.kafka_source import ReadOffsets, whole_topics
from streaming.engine.options import StreamOptions
from streaming.engine.stream_status import code_of, iso
from streaming.run import in_process
from streaming.topics import Topic, ensure, servers
from streaming.windows import replay
from streaming.windows.declaration import Stream, declared, modules_of
from streaming.windows.pipeline import build, from_kafka, messages_of
from streaming.windows.store import STORE, address_of

UNCACHED = ("--max_cache_memory_usage_mb=0",)
"""Beam's cache of state takes milliseconds to measure each entry; `versions.py` has its own."""
_LOG = logging.getLogger(__name__)
PARTITIONS = 4
"""Of a topic that is made here; dead letters have one."""


def ensure_topics(stream: Stream, address: str) -> None:
    """Makes the topics of a stream that are not there; those that are stay as they are.

    Raises:
      TransientError: The broker does not answer.
    """
    wanted = [Topic(name, PARTITIONS) for name in stream.topics]
    wanted += [Topic(stream.dead_letters, 1)] if stream.dead_letters else []
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
    if missing := [topic for topic in wanted if topic.name not in there]:
        ensure(address, missing)


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m streaming.windows", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", help="name of a pipeline, or import string of a declaration")
    parser.add_argument("--store", default="", help=f"path or redis://..., by default as {STORE} names it")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--anew", action="store_true", help="from the beginning of the topics")
    how.add_argument("--upgrade", action="store_true", help="stop it with a savepoint, and go on with this code")
    how.add_argument("--stop", action="store_true", help="end it with a savepoint")
    how.add_argument("--to-end", action="store_true", help="in this process, what the topics hold now")
    how.add_argument("--lake", nargs=2, type=_instant, metavar=("FROM", "TO"), help="in this process, from the lake")
    how.add_argument("--publish", nargs=2, type=_instant, metavar=("FROM", "TO"), help="from the lake into the topic")
    return parser


def _run(options: argparse.Namespace, arguments: list[str]) -> None:
    stream, home = declared(options.pipeline), Home.current()
    store = options.store or address_of(stream, home)
    if options.lake:
        source = messages_of(list(replay.messages(stream, home.lake, *options.lake)))
        in_process(build(stream, source, store, follow=False))
        return
    address = servers()
    flink = Flink(PipelineOptions(arguments).view_as(StreamOptions).flink_rest)
    if options.stop:
        _stop(flink, stream, home)
        return
    ensure_topics(stream, address)
    if options.publish:
        count = replay.publish(address, stream.topics[0], replay.messages(stream, home.lake, *options.publish))
        _LOG.info("%d messages are in %s.", count, stream.topics[0])
    elif options.to_end:
        source = ReadOffsets(address, whole_topics(address, stream.topics))
        in_process(build(stream, source, store, follow=False, servers=address))
    else:
        running = flink.running(stream.name)
        if running and options.upgrade:
            _stop(flink, stream, home)
        elif running and not options.anew:
            _LOG.info("The job %s runs already: %s. New code: --upgrade.", running.name, running.id)
            return
        steps = build(stream, from_kafka(stream, address), store, follow=True, servers=address)
        start = flink_jobs.submit if options.anew else flink_jobs.resume
        job = start(steps, stream.name, [*UNCACHED, *arguments], home=home)
        record = job_records.load(stream.name, home) or job_records.JobRecord(stream.name, job.id)
        record = replace(
            record,
            submitted=iso(time.time()),
            code=code_of(*modules_of(options.pipeline)),
            servers=address,
            topics=stream.topics,
            dead_letters=stream.dead_letters,
        )
        job_records.save(record, home)
        _LOG.info("The job %s runs: %s. Its store is %s.", job.name, job.id, store)


def _stop(flink: Flink, stream: Stream, home: Home) -> None:
    _LOG.info("The job %s has ended with the savepoint %s.", stream.name, job_records.stop(flink, stream.name, home))


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line says.

    Returns:
      The exit status: 0, or that of a fault that may or may not heal.
    """
    options, others = _parser().parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        _run(options, others)
    except AirtightError as error:
        _LOG.error("%s", error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
