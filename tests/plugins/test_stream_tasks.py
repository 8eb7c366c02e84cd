"""The tasks around a stream: started, upgraded, left alone; watched without a worker; and its page."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

from airtight.home import Home
from plugins.tfx_airflow import stream as module
from plugins.tfx_airflow.pages import stream_page
from plugins.tfx_airflow.stream import EnsureStream, StreamWatched, WatchStream
from services.settings import Settings
from streaming import status
from streaming.accounts import Accounts, Entry
from tests.streaming.fake_kafka import Broker, Consumer

CODE = "streaming.draining"
STREAM = {"stream": "toy", "module": CODE}
HOUR = 3_600_000


class Services:
    """A supervisor of one stream, which starts as the real one does, without a process."""

    state: ClassVar[str] = "STOPPED"
    did: ClassVar[list[str]] = []
    source: ClassVar[SimpleNamespace]
    fails: ClassVar[bool] = False
    known: ClassVar[bool] = True

    def __init__(self, home: Home) -> None:
        self.home, self.socket = home, home.run / "supervisor.sock"

    def programs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="stream", state=self.state)] if self.known else []

    def start(self, settings: Settings, names: Sequence[str]) -> list[str]:
        if self.state != "RUNNING":
            self.did.append(f"start {' '.join(names)}")
            if "stream" in names:
                type(self).state = "FATAL" if self.fails else "RUNNING"
                if not self.fails:
                    status.started(self.home, "toy", CODE, self.source)
        return [*names]

    def end(self, names: list[str]) -> list[str]:
        type(self).state = "STOPPED"
        self.did.append(f"end {' '.join(names)}")
        return names

    def log_tail(self, name: str) -> str:
        return "no topic"


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A topic of two partitions with ten messages each, of which the stream read four and one is bad."""
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path / "home"))
    made = Broker(str(tmp_path))
    for number in range(20):
        made.add(number % 2, HOUR * number, b"")
    path = Home.current().path / "stream" / "toy.sqlite"
    accounts = Accounts(path)
    run = accounts.begin({0: (0, 10), 1: (0, 10)}).run
    entries = {
        number: Entry(4, 100 * HOUR + number * HOUR, hours={hour: (0, 2) for hour in (97, 98)}, bad=number)
        for number in (0, 1)
    }
    accounts.enter(run, entries, closed=98)
    accounts.write(97, 4)
    accounts.close()
    monkeypatch.setitem(Broker.all, Settings().own_kafka, made)
    source = SimpleNamespace(accounts=path, servers=str(tmp_path), topic="toys", dead_letters="dead")
    for name, value in {"state": "STOPPED", "did": [], "source": source, "fails": False, "known": True}.items():
        setattr(Services, name, value)
    monkeypatch.setattr(module, "Supervisor", Services)
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(StreamWatched, "poll_s", 0.01)
    monkeypatch.setattr(StreamWatched, "settle_s", 0.0)
    monkeypatch.setattr("kafka.KafkaConsumer", Consumer)
    yield made
    del Broker.all[str(tmp_path)]


def watched(**other: object) -> StreamWatched:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    return StreamWatched(**{**STREAM, "program": "stream", "until": until, "stalled_minutes": 10.0} | other)


def ensure() -> dict:
    return EnsureStream(task_id="ensure", topic="toys", **STREAM).execute({})


def test_the_status_tells_lag_watermark_dead_letters_and_the_last_hour_that_is_done(broker: Broker) -> None:
    told = status.status(status.started(Home.current(), "toy", CODE, Services.source))
    assert [each.lag for each in told.partitions] == [6, 6]
    assert (told.lag, told.bad, told.late, told.undone, told.messages) == (12, 1, 0, 1, 8)
    assert told.watermark == "1970-01-05T04:00:00+00:00", "the slower partition's"
    assert told.hour_done == "1970-01-05T01:00:00+00:00", "98 is closed, and not written yet"
    assert told.dead_letters == 20 and not told.broker
    assert "lag 12 (0: 6, 1: 6)" in str(told)


def test_a_partition_with_nothing_left_holds_nobody_up(broker: Broker) -> None:
    broker.log[0] = broker.log[0][:4]
    told = status.status(status.started(Home.current(), "toy", CODE, Services.source))
    assert told.watermark == "1970-01-05T05:00:00+00:00"


def test_without_a_broker_the_accounts_are_told_and_why_there_is_no_lag(broker, monkeypatch) -> None:
    def away(**_: object) -> None:
        raise OSError("nobody there")

    told = status.status(status.started(Home.current(), "toy", CODE, Services.source), away)
    assert told.lag is None and told.bad == 1 and told.broker == "OSError: nobody there"
    assert "the broker is away" in str(told) and "nobody there" in stream_page.page(_record(), told)


def _record() -> status.Running:
    found = status.running(Home.current(), "toy")
    assert found is not None
    return found


def test_a_stream_that_does_not_run_is_started_with_what_it_needs(broker: Broker) -> None:
    told = ensure()
    assert Services.did == ["start kafka flink-local", "start stream"]
    assert (told["done"], told["pid"], told["status"]["lag"]) == ("started", os.getpid(), 12)
    assert told["code"] == status.code_of(CODE)


def test_one_that_runs_this_code_is_left_alone(broker: Broker) -> None:
    ensure()
    Services.did.clear()
    assert ensure()["done"] == "left"
    assert Services.did == []


def test_new_code_ends_the_old_before_it_starts_the_new(broker: Broker, monkeypatch) -> None:
    before = ensure()
    Services.did.clear()
    monkeypatch.setattr(status, "code_of", lambda module: "another")
    told = ensure()
    assert Services.did == ["end stream", "start stream"]
    assert (told["done"], told["code_before"], told["code"]) == ("upgraded", before["code"], "another")


def test_one_that_does_not_come_up_is_tried_again_with_the_end_of_its_log(broker: Broker) -> None:
    Services.fails = True
    with pytest.raises(AirflowException, match=r"ensure: The stream toy did not come up.\nno topic") as failed:
        ensure()
    assert not isinstance(failed.value, AirflowFailException)


def test_without_services_it_fails_at_once(broker: Broker) -> None:
    Services.known = False
    with pytest.raises(AirflowFailException, match="local services do not run here"):
        ensure()


def test_without_its_topic_nothing_is_started_and_it_says_so(broker: Broker) -> None:
    broker.log.clear()
    with pytest.raises(AirflowFailException, match=r"ensure: There is no topic toys: .* make kafka; or pause this DAG"):
        ensure()
    assert Services.did == ["start kafka flink-local"]


def test_a_topic_that_nothing_was_published_to_is_told(broker: Broker) -> None:
    for log in broker.log.values():
        log.clear()
    assert ensure()["summary"].endswith("Nothing was published to toys yet.")


def test_a_broker_that_just_starts_is_waited_for_and_one_that_stays_away_is_tried_again(broker, monkeypatch) -> None:
    away = iter([True, True, False])

    def connect(**settings: object) -> Consumer:
        if next(away, False):
            raise OSError("nobody there")
        return Consumer(**settings)

    monkeypatch.setattr("kafka.KafkaConsumer", connect)
    assert ensure()["done"] == "started"
    Services.state, away = "STOPPED", iter([True])
    monkeypatch.setattr(module, "UP_S", -1.0)
    with pytest.raises(AirflowException, match="Kafka does not answer") as failed:
        ensure()
    assert not isinstance(failed.value, AirflowFailException)


def test_one_whose_record_cannot_be_read_is_started_anew(broker: Broker) -> None:
    ensure()
    Services.did.clear()
    status.record_of(Home.current(), "toy").write_text('{"name": "of another version"}')
    assert ensure()["done"] == "upgraded"
    assert Services.did == ["end stream", "start stream"]


def test_who_writes_no_dead_letters_is_told_none_and_its_report_is_shown(broker: Broker) -> None:
    source = SimpleNamespace(**{**vars(Services.source), "dead_letters": ""})
    record = status.started(Home.current(), "toy", CODE, source, Path("a page"))
    told = status.status(record)
    assert told.dead_letters is None and "dead letters" not in str(told)
    text = stream_page.page(record, told)
    assert "dead letters" not in text and 'href="stream/report"' in text
    assert "href" not in stream_page.page(_with_letters(), told) and status.running(Home.current(), "toy").report == ""


def _with_letters() -> status.Running:
    return status.started(Home.current(), "toy", CODE, Services.source)


def test_it_is_watched_without_a_worker(broker: Broker) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        WatchStream(task_id="watch", **STREAM).execute({})
    kind, settings = deferred.value.trigger.serialize()
    assert kind == "plugins.tfx_airflow.stream.StreamWatched"
    assert StreamWatched(**settings).serialize() == (kind, settings), "a triggerer that restarts goes on"
    assert settings["until"] > datetime.now(UTC).isoformat()


def test_the_watching_ends_when_the_program_has_and_tells_how_the_stream_does(broker: Broker) -> None:
    ensure()
    trigger = watched()
    assert trigger.poll() is None
    Services.state = "FATAL"

    async def first() -> dict:
        async for seen in trigger.run():
            return seen.payload
        raise AssertionError

    event = asyncio.run(asyncio.wait_for(first(), 60))
    assert (event["reason"], event["words"], event["status"]["lag"]) == ("ended", "its program is FATAL", 12)
    assert WatchStream(task_id="watch", **STREAM).execute({}, event) == event
    assert Services.did == ["start kafka flink-local", "start stream"], "the next run starts it"


def test_it_ends_when_the_while_is_over(broker: Broker) -> None:
    ensure()
    assert watched(until=datetime.now(UTC).isoformat()).poll()["reason"] == "over"


def test_new_code_ends_it_when_it_looks_the_same_twice(broker: Broker, monkeypatch) -> None:
    ensure()
    monkeypatch.setattr(module, "CODE_S", 0.0)
    trigger, codes = watched(), iter(["half", "whole", "whole"])
    monkeypatch.setattr(status, "code_of", lambda module: next(codes))
    assert trigger.poll() is None and trigger.poll() is None
    event = trigger.poll()
    assert event["reason"] == "new_code" and event["words"].endswith("that of the checkout whole")


def test_a_stream_that_stands_still_is_ended_but_not_one_without_messages(broker: Broker, monkeypatch) -> None:
    ensure()
    monkeypatch.setattr(module, "CODE_S", 0.0)
    trigger = watched(stalled_minutes=0.0)
    trigger._new_code = lambda record: ""
    event = trigger.poll()
    assert event["reason"] == "stalled" and event["words"].startswith("12 messages wait")
    WatchStream(task_id="watch", **STREAM).execute({}, event)
    assert Services.did[-1] == "end stream"


def test_what_moves_does_not_stand_still(broker: Broker, monkeypatch) -> None:
    ensure()
    monkeypatch.setattr(module, "CODE_S", 0.0)
    clock = iter(range(0, 10_000, 400))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    trigger, record = watched(), _record()
    read = Accounts(Services.source.accounts)
    assert trigger._stalled(record) == ""
    for following in (5, 6, 7):
        read.enter(1, {0: Entry(following, None)}, None)
        assert trigger._stalled(record) == "", "every 400 s something is read"
    assert trigger._stalled(record) == ""
    assert trigger._stalled(record).endswith("nothing moved for 10 minutes")
    read.close()


def test_the_page_is_safe_and_tells_all(broker: Broker) -> None:
    record = status.started(Home.current(), "<toy>", CODE, Services.source)
    text = stream_page.page(record, status.status(record))
    assert "&lt;toy&gt;" in text and "<toy>" not in text
    for shown in ("<dd>12</dd>", "1970-01-05 04:00:00", "runs</span>", record.code):
        assert shown in text
    assert "There is no stream of &lt;b&gt;" in stream_page.none_yet("<b>")
