"""What else may be wrong around a stream, on a real broker and a real Flink session cluster: each with its outcome."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from kafka import KafkaProducer
from kafka.errors import InvalidTimestampError

from benchmarks.own_cluster import OwnCluster
from streaming.engine import flink_jobs, stream_status
from streaming.engine.flink_rest import Flink
from streaming.engine.job_records import JobRecord
from streaming.engine.kafka_source import ReadEvents
from streaming.topics import Topic, ensure
from tests.streaming.engine_counts import START_S, close_windows, counts_to, expected, produce, read_counts, until

pytestmark = pytest.mark.slow

DAY_S = 86_400
AHEAD_S = 2 * DAY_S


def topic_of(cluster: OwnCluster, name: str) -> str:
    ensure(cluster.servers, [Topic(name, 4, {"retention.ms": "-1"})])
    return name


def in_transaction(servers: str, topic: str, count: int, *, is_committed: bool) -> None:
    """Publishes messages of a key of their own in one transaction, which is committed or aborted."""
    # The broker makes its topic of transactions first.
    settings = {"transactional_id": f"{topic}.{is_committed}", "max_block_ms": 300_000}
    with KafkaProducer(bootstrap_servers=servers, **settings) as producer:
        producer.init_transactions()
        producer.begin_transaction()
        for _ in range(count):
            key = b"committed" if is_committed else b"aborted"
            producer.send(topic, key=key, value=b"1", partition=0, timestamp_ms=START_S * 1000)
        producer.flush()
        (producer.commit_transaction if is_committed else producer.abort_transaction)()


def test_transactions_a_stamp_of_the_future_and_a_broker_that_hangs(cluster: OwnCluster, tmp_path: Path) -> None:
    servers, flink, file = cluster.servers, Flink(), tmp_path / "counts.jsonl"
    topic = topic_of(cluster, "test.bad")
    # Their marks carry the clock of the broker: the messages of 2013 that follow must not be late for that.
    in_transaction(servers, topic, 70, is_committed=False)
    in_transaction(servers, topic, 30, is_committed=True)
    with KafkaProducer(bootstrap_servers=servers) as producer:
        stamp = round((time.time() + AHEAD_S) * 1000)
        with pytest.raises(InvalidTimestampError):
            producer.send(topic, key=b"future", value=b"1", partition=1, timestamp_ms=stamp).get(60)
    build = counts_to(file, lambda: ReadEvents(servers, [topic], out_of_order_s=30, group=topic))
    job = flink_jobs.submit(build, "bad")
    # Ten seconds of event time a second: what a partition gets later than another stays within the bound.
    produce(servers, topic, range(2_000), partitions=3, rate=100)
    until(lambda: read_counts(file), "windows: no aborted message holds them")

    record = JobRecord("bad", job.id, servers=servers, topics=(topic,))
    broker = cluster.pid("kafka")
    os.kill(broker, signal.SIGSTOP)
    try:
        until(lambda: stream_status.status(flink, record).broker, "who watches hears that the broker does not answer")
        assert flink.status(job.id).job.state == "RUNNING"
    finally:
        os.kill(broker, signal.SIGCONT)
    until(lambda: not stream_status.status(flink, record).broker, "the broker answers again")
    produce(servers, topic, range(2_000, 4_000), partitions=3, rate=100)
    close_windows(servers, topic, 4_000)
    counts = expected(range(4_000)) | {("committed", START_S): (30, 30)}
    until(lambda: len(read_counts(file)) == len(counts), "all windows")
    produce(servers, topic, [0, 1], partitions=3)
    until(lambda: flink.status(job.id).dropped, "what came later than the bound says is counted")
    assert read_counts(file) == counts


def test_a_checkpoint_folder_that_cannot_be_written_fails_the_job_with_that_reason(
    cluster: OwnCluster, tmp_path: Path
) -> None:
    servers, flink, file = cluster.servers, Flink(), tmp_path / "counts.jsonl"
    topic = topic_of(cluster, "test.unwritable")
    build = counts_to(file, lambda: ReadEvents(servers, [topic], out_of_order_s=30))
    job = flink_jobs.submit(build, "unwritable")
    produce(servers, topic, range(1_500), partitions=3, rate=100)
    until(lambda: flink.checkpoints(job.id).completed, "a checkpoint")
    folder = Path(flink.setting("state.checkpoints.dir").removeprefix("file:")) / job.id
    aside = folder.with_name("aside")
    # A file in its place: for root, who runs the tests, no folder is read-only.
    folder.rename(aside)
    folder.touch()
    try:
        until(lambda: flink.checkpoints(job.id).failed, "a checkpoint that failed")
        until(lambda: flink.status(job.id).failures, "which fails the job, too")
        status = flink.status(job.id)
        assert "heckpoint" in status.failure, status.failure
    finally:
        folder.unlink()
        shutil.move(aside, folder)
    produce(servers, topic, range(1_500, 3_000), partitions=3, rate=100)
    close_windows(servers, topic, 3_000)
    until(lambda: len(read_counts(file)) == len(expected(range(3_000))), "it goes on by itself, once it can be written")
    assert read_counts(file) == expected(range(3_000))
