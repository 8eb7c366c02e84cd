"""The tasks about a stream: started, upgraded, left alone, stopped; watched without a worker; and its page.

Flink's REST API and the broker are stand-ins with the answers of the real ones; `tests/streaming/cluster`
has the real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

from airtight.errors import TerminalError, TransientError
from plugins.tfx_airflow import command, stream, stream_watch
from plugins.tfx_airflow.pages import stream_page
from plugins.tfx_airflow.stream import EnsureStream, StopStream, WatchStream
from plugins.tfx_airflow.stream_watch import StreamWatched
from streaming.engine import job_records, stream_status
from streaming.engine.flink_rest import ENDED, Checkpoints, Job, JobStatus
from streaming.engine.job_records import JobRecord
from tests.streaming.fake_kafka import Broker, Consumer

SHOPS = {"stream": "shops", "declaration": "tests.streaming.windows.shops:STREAM"}
CODE = stream_status.code_of("streaming.windows.__main__", "tests.streaming.windows.shops")
NOW = datetime.now(UTC).timestamp()
SOON = NOW + 3600
"""Of a checkpoint that is new throughout a test."""


class Cluster:
    """Flink with one job, which `run` starts."""

    def __init__(self, broker: str) -> None:
        self.broker, self.did, self.heap, self.fault = broker, [], 0.5, None
        self.status: JobStatus | None = None

    def run(self, code: str = CODE, job: str = "j1") -> None:
        self.status = JobStatus(Job(job, "shops", "RUNNING", NOW, True), 600.0, 8, Checkpoints(3, 0, "file:/c", SOON))
        record = JobRecord("shops", job, submitted="2013-06-01T00:00:00+00:00", code=code, servers=self.broker)
        job_records.save(replace(record, topics=("test.shops",), dead_letters="dead"))

    def change(self, **fields: Any) -> None:
        assert self.status is not None
        self.status = replace(self.status, **fields)

    def ended(self, state: str, failure: str) -> None:
        assert self.status is not None
        self.change(job=replace(self.status.job, state=state), failure=failure)


class StubFlink:
    """As `flink_rest.Flink`."""

    cluster: Cluster
    url = "http://flink"

    def jobs(self) -> list[Job]:
        if self.cluster.fault:
            raise self.cluster.fault
        return [self.cluster.status.job] if self.cluster.status else []

    def running(self, name: str) -> Job | None:
        return next((job for job in self.jobs() if job.state not in ENDED), None)

    def status(self, job_id: str) -> JobStatus:
        assert self.cluster.status is not None
        return self.cluster.status

    def heap_share(self) -> float:
        return self.cluster.heap

    def savepoint(self, job_id: str, folder: str, *, cancel: bool) -> str:
        self.cluster.did.append("savepoint")
        if self.cluster.status.job.state != "RUNNING":
            raise TransientError("The savepoint was not written.")
        return "file:/s/1"

    def checkpoints(self, job_id: str) -> Checkpoints:
        return self.status(job_id).checkpoints

    def cancel(self, job_id: str) -> None:
        self.cluster.did.append(f"cancel {job_id}")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    broker = Broker(str(tmp_path))
    for number in range(20):
        broker.add(number % 2, number, b"")
    broker.committed = {0: 4}
    made = StubFlink.cluster = Cluster(str(tmp_path))

    def submit(log: Any, of: str, arguments: tuple[str, ...]) -> None:
        made.did.append(" ".join((of, *arguments)))
        made.run()

    monkeypatch.setattr(stream, "Flink", StubFlink)
    monkeypatch.setattr(stream_watch, "Flink", StubFlink)
    monkeypatch.setattr(stream, "run", submit)
    monkeypatch.setattr(StreamWatched, "settle_s", 0.0)
    monkeypatch.setattr(StreamWatched, "poll_s", 0.01)
    monkeypatch.setattr("kafka.KafkaConsumer", Consumer)
    yield made
    del Broker.all[str(tmp_path)]


def ensure() -> dict[str, Any]:
    return EnsureStream(task_id="ensure", **SHOPS).execute({})


def watched(**other: Any) -> StreamWatched:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    return StreamWatched(**SHOPS | {"until": until, "stalled_minutes": 60.0, "memory_mb": 500.0} | other)


def watch(event: dict[str, Any]) -> dict[str, Any]:
    return WatchStream(task_id="watch", **SHOPS).execute({}, event)


def test_a_stream_that_does_not_run_is_started(cluster: Cluster) -> None:
    result = ensure()
    assert cluster.did == ["streaming.windows tests.streaming.windows.shops:STREAM"]
    assert (result["done"], result["job"], result["code"]) == ("started", "j1", CODE)
    # Of the first partition six, of the second, of which nothing was committed, ten; the same number of dead letters.
    assert (result["status"]["lag"], result["status"]["dead_letters"]) == (16, 20)
    assert result["status"]["watermark"] == "1970-01-01T00:10:00+00:00"


def test_one_that_runs_this_code_is_left_alone_and_one_of_other_code_is_upgraded(cluster: Cluster) -> None:
    cluster.run()
    assert ensure()["done"] == "left"
    assert cluster.did == []
    cluster.run(code="older")
    result = ensure()
    assert (result["done"], result["code_before"], result["code"]) == ("upgraded", "older", CODE)
    assert cluster.did == ["streaming.windows tests.streaming.windows.shops:STREAM --upgrade"]


@pytest.mark.parametrize("kind", [TransientError, TerminalError])
def test_a_fault_is_retried_only_where_it_may_heal(cluster: Cluster, kind: type) -> None:
    cluster.fault = kind("Flink says no.")
    with pytest.raises(AirflowException, match="ensure: Flink says no") as failed:
        ensure()
    assert isinstance(failed.value, AirflowFailException) == (kind is TerminalError)


def test_it_is_stopped_with_a_savepoint(cluster: Cluster) -> None:
    stop = StopStream(task_id="stop", **SHOPS)
    assert stop.execute({}) == {"savepoint": ""}, "it does not run"
    cluster.run()
    assert stop.execute({}) == {"savepoint": "file:/s/1"}
    record = job_records.load("shops")
    assert record is not None and (record.start, record.stopped) == ("file:/s/1", True)
    event = watched().poll()
    assert event is not None and event["reason"] == "stopped"
    assert watch(event) == event, "stopped on purpose is no fault"


def test_one_that_fails_again_and_again_is_stopped_with_its_last_checkpoint(cluster: Cluster) -> None:
    cluster.run()
    cluster.change(job=replace(cluster.status.job, state="RESTARTING", complete=False))
    assert StopStream(task_id="stop", **SHOPS).execute({}) == {"savepoint": "file:/c"}
    assert cluster.did == ["savepoint", "cancel j1"]
    record = job_records.load("shops")
    assert record is not None and (record.start, record.stopped) == ("file:/c", True)


def test_one_that_is_well_goes_on_where_no_savepoint_can_be_written(cluster: Cluster, monkeypatch) -> None:
    """A full disk, or an answer that does not come in time."""

    def full(*_: Any, **__: Any) -> str:
        raise TransientError("No space left on device.")

    cluster.run()
    monkeypatch.setattr(StubFlink, "savepoint", full)
    cluster.change(failed=NOW - 3600)
    with pytest.raises(AirflowException, match="No space left"):
        StopStream(task_id="stop", **SHOPS).execute({})
    assert cluster.did == []
    cluster.change(failed=datetime.now(UTC).timestamp())
    assert StopStream(task_id="stop", **SHOPS).execute({}) == {"savepoint": "file:/c"}


def test_a_store_that_lost_something_turns_the_task_red_and_is_filled_again(cluster: Cluster) -> None:
    cluster.run()
    cluster.change(store_whole_from=NOW // 60)
    assert "its store has lost what it had of the time before 20" in red(cluster, watched())
    assert ensure()["done"] == "refilled"
    assert cluster.did == ["cancel j1", "streaming.windows tests.streaming.windows.shops:STREAM --anew"]


def test_one_that_could_not_be_filled_again_begins_anew_at_the_next_try(cluster: Cluster, monkeypatch) -> None:
    def away(*_: Any) -> None:
        raise TransientError("Flink's job server does not answer.")

    cluster.run()
    cluster.change(store_whole_from=NOW // 60)
    with monkeypatch.context() as patched:
        patched.setattr(stream, "run", away)
        with pytest.raises(AirflowException, match="job server does not answer"):
            ensure()
    assert job_records.start_point(StubFlink(), "shops") == "", "no checkpoint holds that the store has lost something"


def test_what_the_engine_drops_as_late_turns_the_task_red(cluster: Cluster) -> None:
    cluster.run()
    cluster.change(dropped=5)
    trigger = watched()
    assert trigger.poll() is None, "before the watching"
    cluster.change(dropped=0)
    assert trigger.poll() is None, "it was started again"
    cluster.change(dropped=3)
    assert "3 sums (of a group and window each) were dropped" in red(cluster, trigger)
    cluster.change(dropped=1)
    assert "1 sums (of a group and window each) were dropped" in red(cluster, trigger), (
        "it was started again between two looks"
    )


def test_the_newest_checkpoint_is_kept_for_a_flink_that_forgets(cluster: Cluster) -> None:
    cluster.run()
    trigger = watched()
    assert trigger.poll() is None
    record = job_records.load("shops")
    assert record is not None and record.start == "file:/c"
    job_records.save(replace(record, start="file:/s/1", stopped=True))
    trigger.poll()
    assert job_records.load("shops").start == "file:/s/1", "not in place of the savepoint"


def test_it_is_watched_without_a_worker(cluster: Cluster) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        WatchStream(task_id="watch", **SHOPS).execute({})
    kind, settings = deferred.value.trigger.serialize()
    assert kind == "plugins.tfx_airflow.stream_watch.StreamWatched"
    assert StreamWatched(**settings).serialize() == (kind, settings), "a triggerer that restarts goes on"
    assert settings["until"] > datetime.now(UTC).isoformat()


def test_while_it_does_its_work_the_watching_goes_on_until_the_time_is_over(cluster: Cluster) -> None:
    cluster.run()
    trigger = watched()
    assert [trigger.poll() for _ in range(3)] == [None] * 3
    event = watched(until=datetime.now(UTC).isoformat()).poll()
    assert event is not None and event["reason"] == "over"
    assert watch(event)["status"]["lag"] == 16


def red(cluster: Cluster, trigger: StreamWatched) -> str:
    """What the task fails with."""

    async def first() -> dict[str, Any]:
        async for seen in trigger.run():
            return seen.payload
        raise AssertionError

    event = asyncio.run(asyncio.wait_for(first(), 60))
    with pytest.raises(AirflowFailException) as failed:
        watch(event)
    return str(failed.value)


def test_a_job_that_failed_turns_the_task_red_with_the_reason(cluster: Cluster) -> None:
    cluster.run()
    cluster.ended("FAILED", "100.0% of the last messages of the stream shops are bad")
    assert "the job is FAILED: 100.0% of the last messages" in red(cluster, watched())
    cluster.status = None
    assert "Flink does not know the job j1 any more" in red(cluster, watched())
    assert cluster.did == []


def test_a_job_that_stands_still_is_cancelled_and_turns_the_task_red(cluster: Cluster) -> None:
    cluster.run()
    cluster.change(failure="Connection refused")
    text = red(cluster, watched(stalled_minutes=1e-6))
    assert "16 messages wait, and nothing moved for 0 s; it failed last with: Connection refused" in text
    assert cluster.did == ["cancel j1"]


def test_a_job_that_was_started_since_is_not_cancelled_in_place_of_the_one_that_stood_still(cluster: Cluster) -> None:
    cluster.run()
    trigger = watched(stalled_minutes=1e-6)
    assert trigger.poll() is None
    event = trigger.poll()
    assert event is not None and event["reason"] == "stalled"
    cluster.run(job="j2")
    with pytest.raises(AirflowFailException, match="nothing moved"):
        watch(event)
    assert cluster.did == []


def test_one_without_messages_and_one_that_moves_do_not_stand_still(cluster: Cluster, monkeypatch) -> None:
    cluster.run()
    broker, trigger = Broker.all[cluster.broker], watched(stalled_minutes=10)
    clock = iter(range(0, 100_000, 400))
    monkeypatch.setattr(stream_watch.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(trigger, "_new_code", lambda record: "")
    for offset in range(5, 9):
        broker.committed = {0: offset, 1: offset}
        assert trigger.poll() is None
    broker.committed = {0: 10, 1: 10}
    assert [trigger.poll() for _ in range(4)] == [None] * 4, "nothing waits"
    broker.add(0, 0, b"")
    events = [trigger.poll() for _ in range(4)]
    assert next(event["reason"] for event in events if event) == "stalled"


def test_a_broker_or_a_topic_that_is_away_turns_the_task_red(cluster: Cluster, monkeypatch) -> None:
    def away(**_: object) -> None:
        raise OSError("nobody there")

    cluster.run()
    trigger = watched(stalled_minutes=1e-6)
    with monkeypatch.context() as patched:
        patched.setattr("kafka.KafkaConsumer", away)
        assert "what waits is not known for 0 s: it does not answer: OSError: nobody there" in red(cluster, trigger)
    Broker.all[cluster.broker].log.clear()
    assert "what waits is not known for 0 s: there is no topic test.shops" in red(
        cluster, watched(stalled_minutes=1e-6)
    )
    assert cluster.did == [], "it goes on by itself when they are back"


def test_a_partition_that_is_not_read_beside_others_turns_the_task_red(cluster: Cluster, monkeypatch) -> None:
    cluster.run()
    broker, trigger = Broker.all[cluster.broker], watched(stalled_minutes=10)
    clock = iter(range(0, 100_000, 100))
    monkeypatch.setattr(stream_watch.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(trigger, "_new_code", lambda record: "")
    broker.committed = {0: 4, 1: 10}
    assert trigger.poll() is None
    events = []
    for _ in range(5):
        broker.add(1, 0, b"")
        broker.committed[1] += 1
        events.append(trigger.poll())
    event = next(filter(None, events))
    assert event["reason"] == "stuck"
    assert (
        "6 messages of the partition 0 of test.shops wait, and none was read for 600 s from offset 4" in event["words"]
    )
    with pytest.raises(AirflowFailException, match="leave a transaction open"):
        watch(event)
    assert cluster.did == [], "the others are read"


def test_a_job_without_checkpoints_turns_the_task_red(cluster: Cluster) -> None:
    cluster.run()
    now = datetime.now(UTC).timestamp()
    old = Checkpoints(3, 7, "file:/c", now - 3600, failure="disk full")
    cluster.change(checkpoints=old, job=replace(cluster.status.job, started=now - 7200))
    text = red(cluster, watched(stalled_minutes=30))
    assert "no checkpoint was complete for 36" in text and "7 failed: disk full" in text


def test_memory_that_grows_turns_the_task_red(cluster: Cluster) -> None:
    cluster.run()
    cluster.change(worker_memory_mb=501.0)
    assert "a Python worker uses 501 MB, more than 500" in red(cluster, watched())
    cluster.change(worker_memory_mb=499.0)
    cluster.heap = 0.97
    trigger = watched(stalled_minutes=1e-6)
    assert "a TaskManager's heap is full for 0 s: 97%" in red(cluster, trigger)


def test_new_code_ends_it_when_it_looks_the_same_twice(cluster: Cluster, monkeypatch) -> None:
    cluster.run()
    monkeypatch.setattr(stream_watch, "CODE_S", 0.0)
    trigger, codes = watched(), iter(["half", "whole", "whole"])
    monkeypatch.setattr(stream_status, "code_of", lambda *modules: next(codes))
    assert trigger.poll() is None and trigger.poll() is None
    event = trigger.poll()
    assert event is not None and event["reason"] == "new_code"
    assert watch(event)["words"].endswith("that of the checkout whole")


def test_a_flink_that_does_not_answer_is_retried(cluster: Cluster) -> None:
    cluster.run()
    cluster.fault = TransientError("Flink does not answer.")
    event = watched().poll()
    assert event is not None
    with pytest.raises(AirflowException, match="Flink does not answer") as failed:
        watch(event)
    assert not isinstance(failed.value, AirflowFailException)


def test_without_a_broker_the_rest_is_known(cluster: Cluster, monkeypatch) -> None:
    def away(**_: object) -> None:
        raise OSError("nobody there")

    cluster.run()
    monkeypatch.setattr("kafka.KafkaConsumer", away)
    record = job_records.load("shops")
    assert record is not None
    status = stream_status.status(StubFlink(), record)
    assert (status.lag, status.broker) == (None, "it does not answer: OSError: nobody there")
    assert "of the broker: it does not answer" in str(status)
    assert "Of the broker: it does not answer: OSError: nobody there" in stream_page.page(record, status)


def test_the_page_is_safe_and_shows_all(cluster: Cluster) -> None:
    cluster.run()
    cluster.change(failure="<b>because</b>", failed=NOW, worker_memory_mb=123.4, dropped=77, store_whole_from=60)
    record = job_records.load("shops")
    assert record is not None
    text = stream_page.page(replace(record, name="<shops>"), stream_status.status(StubFlink(), record), True)
    assert "&lt;shops&gt;" in text and "<shops>" not in text and "<b>because" not in text
    for shown in (
        "<dd>16</dd>",
        "1970-01-01 00:10:00",
        '<span class="good">RUNNING</span>',
        CODE,
        "<dd>123</dd>",
        "<dd>77</dd>",
    ):
        assert shown in text
    assert "lost what was before 1970-01-01 01:00" in text
    assert 'href="stream/report"' in text
    assert "There is no stream of &lt;b&gt;" in stream_page.none_yet("<b>")


@pytest.mark.parametrize(("status", "kind"), [("0", None), ("64", TerminalError), ("75", TransientError)])
def test_a_command_says_by_its_exit_status_whether_it_may_heal(status: str, kind: type | None) -> None:
    lines: list[str] = []
    log = SimpleNamespace(info=lambda text, line: lines.append(line))
    if kind is None:
        command.run(log, "tests.plugins.exits", [status])
    else:
        with pytest.raises(kind, match=f"{status}: it ends"):
            command.run(log, "tests.plugins.exits", [status])
    assert lines == ["it ends"]
