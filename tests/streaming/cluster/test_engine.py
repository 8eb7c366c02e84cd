"""A stream on a real Flink session cluster and a real broker: kills, resumption, savepoints."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from airtight.errors import TerminalError
from benchmarks.own_cluster import OwnCluster
from services.supervisor import expand
from streaming.engine import flink_jobs, job_records
from streaming.engine.flink_rest import Flink
from streaming.engine.kafka_source import ReadEvents, ReadOffsets, whole_topics
from streaming.run import in_process
from streaming.topics import Topic, ensure
from tests.services.listening import listening
from tests.streaming.engine_counts import START_S, close_windows, counts_to, expected, produce, read_counts, until

pytestmark = pytest.mark.slow

NAME = "counts"
LEAST = 10_000
"""Events at least."""
RATE = 200.0
"""Events a second, which are twenty seconds of event time."""
ON_BOTH = ["--slots=2"]
"""A slot of each TaskManager."""


def topic_of(cluster: OwnCluster, name: str) -> Topic:
    """A topic of a test's own, of which one partition stays empty until the end."""
    topic = Topic(name, 4, {"retention.ms": "-1"})
    ensure(cluster.servers, [topic])
    return topic


def test_results_are_exact_after_kills_of_each_part_and_of_all(cluster: OwnCluster, tmp_path: Path) -> None:
    servers, flink, file = cluster.servers, Flink(), tmp_path / "counts.jsonl"
    topic = topic_of(cluster, "test.kills")
    build = counts_to(file, lambda: ReadEvents(servers, [topic.name], out_of_order_s=120, group=topic.name))
    over, published = threading.Event(), []

    def numbers() -> Iterator[int]:
        """Those of events, until all is over: without messages Python workers are not started again."""
        while not over.is_set() or len(published) < LEAST:
            published.append(len(published))
            yield published[-1]

    writing = threading.Thread(
        target=produce, args=(servers, topic.name, numbers()), kwargs={"partitions": 3, "rate": RATE}
    )
    writing.start()
    try:
        job = flink_jobs.submit(build, NAME, ON_BOTH)
        with pytest.raises(TerminalError, match="runs already"):
            flink_jobs.submit(build, NAME)
        until(lambda: read_counts(file), "the first windows, with a partition that never held a message")
        programs = expand(("flink",), cluster.settings)
        for program in programs:
            assert listening(cluster.pid(program)) <= {"127.0.0.1"}, program

        cluster.kill("flink-taskmanager")
        until(lambda: flink.status(job.id).failures >= 1, "Flink has noticed")
        until(lambda: flink.status(job.id).job.complete, "it runs again")

        until(lambda: len(cluster.workers()) >= 2, "a Python worker of each TaskManager")
        failures = flink.status(job.id).failures
        for worker in cluster.workers():
            worker.kill()
        until(lambda: flink.status(job.id).failures > failures, "Flink has noticed")
        rows = len(read_counts(file))
        until(lambda: len(read_counts(file)) > rows, "windows after the kills")

        for program in programs:
            cluster.kill(program)
        until(cluster.is_well, "the cluster is well again")
        assert flink.running(NAME) is None, "the JobManager has forgotten it"
        assert job_records.start_point(flink, NAME).rpartition("/")[2].startswith("chk-")
        job = flink_jobs.resume(build, NAME, ON_BOTH)
    finally:
        over.set()
        writing.join()
    close_windows(servers, topic.name, len(published))
    until(lambda: len(read_counts(file)) == len(expected(published)), "all windows")
    assert read_counts(file) == expected(published)
    status = flink.status(job.id)
    assert status.checkpoints.completed
    assert status.watermark is not None

    in_python = tmp_path / "bounded.jsonl"
    in_process(counts_to(in_python, lambda: ReadOffsets(servers, whole_topics(servers, [topic.name]))))
    bounded = {place: count for place, count in read_counts(in_python).items() if place[0] != "END"}
    assert bounded == expected(published), "the same steps without Flink"


def test_a_job_that_was_stopped_goes_on_from_its_savepoint(cluster: OwnCluster, tmp_path: Path) -> None:
    servers, flink, file = cluster.servers, Flink(), tmp_path / "counts.jsonl"
    topic = topic_of(cluster, "test.savepoints")
    source = {"topics": [topic.name], "out_of_order_s": 30, "group": topic.name}
    build = counts_to(file, lambda: ReadEvents(servers, **source))
    produce(servers, topic.name, range(3_000), partitions=3)
    job = flink_jobs.submit(build, NAME)
    until(lambda: read_counts(file), "the first windows")
    savepoint = job_records.stop(flink, NAME)
    assert flink.running(NAME) is None
    assert Path(savepoint.removeprefix("file:"), "_metadata").is_file()
    before = read_counts(file)
    other = counts_to(tmp_path / "other.jsonl", lambda: ReadEvents(servers, **source), "other ")
    with pytest.raises(TerminalError, match=r"(?s)could not be started.*savepoint"):
        flink_jobs.submit(other, "other", [], savepoint)

    produce(servers, topic.name, range(3_000, 4_500), partitions=3)
    resumed = flink_jobs.resume(build, NAME)
    assert resumed.id != job.id
    # Partitions that are added are read like those that were there.
    until(lambda: flink.status(resumed.id).read >= 1_500, "what came meanwhile")
    ensure(servers, [replace(topic, partitions=6)])
    time.sleep(10)
    # The last one is a second before its minute is over.
    produce(servers, topic.name, range(4_500, 5_990), partitions=6, rate=100)
    closed = {place: count for place, count in expected(range(5_990)).items() if place[1] < START_S + 540}
    until(lambda: len(read_counts(file)) == len(closed), "all windows but the last")
    assert read_counts(file) == closed, "the open window was in the savepoint"
    assert before.items() <= closed.items()
    committed = KafkaConsumer(bootstrap_servers=servers, group_id=topic.name)
    parts = [TopicPartition(topic.name, number) for number in range(6)]
    until(lambda: sum(committed.committed(part) or 0 for part in parts) == 5_990, "Kafka's tools see no lag")
    committed.close()

    # Resumed with other settings: event time now goes on in the silence.
    job_records.stop(flink, NAME)

    def idle() -> ReadEvents:
        return ReadEvents(servers, idle_s=1, **source)

    flink_jobs.resume(counts_to(file, idle), NAME)
    until(lambda: len(read_counts(file)) == len(expected(range(5_990))), "all windows, the last one too")
    assert read_counts(file) == expected(range(5_990))

    # Anew it reads from the beginning, whatever the group has committed.
    flink.cancel(flink.running(NAME).id)
    again = tmp_path / "again.jsonl"
    anew = flink_jobs.submit(counts_to(again, idle), NAME)
    until(lambda: read_counts(again) == expected(range(5_990)), "all windows again")

    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.delete_topics([topic.name])
    until(lambda: topic.name not in admin.list_topics(), "the topic is gone")
    admin.close()
    ensure(servers, [topic])
    until(lambda: "was made anew" in flink.status(anew.id).failure, "what happened to the topic is the reason")
    if failing := flink.running(NAME):
        flink.cancel(failing.id)
    # The same TaskManagers knew how far the topic of before had come.
    remade = tmp_path / "remade.jsonl"
    flink_jobs.submit(counts_to(remade, idle), NAME)
    produce(servers, topic.name, range(1_500), partitions=4, rate=100)
    until(lambda: read_counts(remade) == expected(range(1_500)), "nothing of the new topic is late")
