"""A stream on a real Flink session cluster and a real broker: kills, resumption, savepoints."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from airtight.errors import TerminalError
from airtight.home import Home
from services import health
from services.__main__ import up
from services.settings import Settings, environment
from services.supervisor import Supervisor, expand
from streaming.engine import flink_jobs, job_records
from streaming.engine.flink_rest import Flink
from streaming.engine.kafka_source import ReadEvents, ReadOffsets, whole_topics
from streaming.run import in_process
from streaming.topics import Topic, ensure
from tests.services.conftest import home  # noqa: F401
from tests.services.listening import listening
from tests.streaming.engine_counts import START_S, close_windows, counts_to, expected, produce, read_counts

pytestmark = pytest.mark.slow

TOPIC = Topic("test.engine", 4, {"retention.ms": "-1"})
"""One partition stays empty until the end."""
NAME = "counts"
EVENTS = 40_000
RATE = 1_000.0
WAIT_S = 120.0


@pytest.fixture
def cluster(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:  # noqa: F811
    settings = up(home, ("kafka", "flink"))
    for name, value in environment(settings, home).items():
        if name.startswith("AIRTIGHT_"):
            monkeypatch.setenv(name, value)
    ensure(settings.kafka_servers, [TOPIC])
    yield settings


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.5)


def pid(home: Home, program: str) -> int:  # noqa: F811
    return next(p.pid for p in Supervisor(home).programs() if p.name == program)


def workers(home: Home) -> list[psutil.Process]:  # noqa: F811
    children = psutil.Process(pid(home, "beam-workers")).children()
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


def await_cluster(home: Home, settings: Settings) -> None:  # noqa: F811
    (service,) = (s for s in health.services(settings, home) if s.name == "Flink")
    until(lambda: not service.missing(), "the cluster is well again")


def test_results_are_exact_after_kills_of_each_part_and_of_all(
    home: Home,  # noqa: F811
    cluster: Settings,
    tmp_path: Path,
) -> None:
    servers, flink, file = cluster.kafka_servers, Flink(), tmp_path / "counts.jsonl"
    build = counts_to(file, lambda: ReadEvents(servers, [TOPIC.name], out_of_order_s=2, group="test.engine"))
    writing = threading.Thread(
        target=produce, args=(servers, TOPIC.name, range(EVENTS)), kwargs={"partitions": 3, "rate": RATE}
    )
    writing.start()
    try:
        job = flink_jobs.submit(build, NAME)
        with pytest.raises(TerminalError, match="runs already"):
            flink_jobs.submit(build, NAME)
        until(lambda: read_counts(file), "the first windows, with a partition that never held a message")
        for program in expand(("flink",), cluster):
            assert listening(pid(home, program)) <= {"127.0.0.1"}, program

        os.kill(pid(home, "flink-taskmanager"), signal.SIGKILL)
        until(lambda: flink.status(job.id).failures >= 1, "Flink has noticed")
        until(lambda: flink.status(job.id).job.complete, "it runs again")

        until(lambda: workers(home), "a Python worker")
        failures = flink.status(job.id).failures
        for worker in workers(home):
            worker.kill()
        until(lambda: flink.status(job.id).failures > failures, "Flink has noticed")
        rows = len(read_counts(file))
        until(lambda: len(read_counts(file)) > rows, "windows after the kills")

        for program in expand(("flink",), cluster):
            os.kill(pid(home, program), signal.SIGKILL)
        await_cluster(home, cluster)
        assert flink.running(NAME) is None, "the JobManager has forgotten it"
        assert job_records.start_point(flink, NAME).rpartition("/")[2].startswith("chk-")
        job = flink_jobs.resume(build, NAME)
    finally:
        writing.join()
    close_windows(servers, TOPIC.name, EVENTS)
    until(lambda: len(read_counts(file)) == len(expected(range(EVENTS))), "all windows")
    assert read_counts(file) == expected(range(EVENTS))
    status = flink.status(job.id)
    assert status.checkpoints.completed
    assert status.watermark is not None

    in_python = tmp_path / "bounded.jsonl"
    in_process(counts_to(in_python, lambda: ReadOffsets(servers, whole_topics(servers, [TOPIC.name]))))
    bounded = {place: count for place, count in read_counts(in_python).items() if place[0] != "END"}
    assert bounded == expected(range(EVENTS)), "the same steps without Flink"


def test_a_job_that_was_stopped_goes_on_from_its_savepoint(
    home: Home,  # noqa: F811
    cluster: Settings,
    tmp_path: Path,
) -> None:
    servers, flink, file = cluster.kafka_servers, Flink(), tmp_path / "counts.jsonl"
    source = {"topics": [TOPIC.name], "out_of_order_s": 2, "group": "test.engine"}
    build = counts_to(file, lambda: ReadEvents(servers, **source))
    produce(servers, TOPIC.name, range(3_000), partitions=3)
    job = flink_jobs.submit(build, NAME)
    until(lambda: read_counts(file), "the first windows")
    savepoint = job_records.stop(flink, NAME)
    assert flink.running(NAME) is None
    assert Path(savepoint.removeprefix("file:"), "_metadata").is_file()
    before = read_counts(file)

    produce(servers, TOPIC.name, range(3_000, 4_500), partitions=3)
    resumed = flink_jobs.resume(build, NAME)
    assert resumed.id != job.id
    # Partitions that are added are read like those that were there.
    until(lambda: flink.status(resumed.id).read >= 1_500, "what came meanwhile")
    ensure(servers, [replace(TOPIC, partitions=6)])
    time.sleep(10)
    # The last one is a second before its minute is over.
    produce(servers, TOPIC.name, range(4_500, 5_990), partitions=6)
    closed = {place: count for place, count in expected(range(5_990)).items() if place[1] < START_S + 540}
    until(lambda: len(read_counts(file)) == len(closed), "all windows but the last")
    assert read_counts(file) == closed, "the open window was in the savepoint"
    assert before.items() <= closed.items()
    committed = KafkaConsumer(bootstrap_servers=servers, group_id="test.engine")
    parts = [TopicPartition(TOPIC.name, number) for number in range(6)]
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
    admin.delete_topics([TOPIC.name])
    until(lambda: TOPIC.name not in admin.list_topics(), "the topic is gone")
    admin.close()
    ensure(servers, [TOPIC])
    until(lambda: "was made anew" in flink.status(anew.id).failure, "what happened to the topic is the reason")
