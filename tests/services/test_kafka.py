"""The broker as a program: what it is told, and a real one from the jars to a message."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from airtight.errors import TerminalError
from airtight.home import Home
from commands import kafka as command
from pipelines.flight_delays.streams import STREAM
from pipelines.flight_delays.topics import EVENTS, TOPICS
from services import kafka, processes
from services.__main__ import main
from services.environment import environment
from services.settings import Settings
from services.supervisor import Supervisor
from streaming.topics import ensure
from tests.services.listening import listening
from tests.waiting import PATIENCE_S, until

STAMP = datetime(2013, 6, 14, 12, tzinfo=UTC)


def test_the_broker_and_its_controller_listen_on_loopback_only() -> None:
    properties = dict(
        line.split("=", 1)
        for line in kafka.properties(Settings(kafka_port=1111, kafka_controller_port=2222), "data").splitlines()
        if not line.startswith("#")
    )
    addresses = properties["listeners"].split(",") + properties["advertised.listeners"].split(",")
    assert {address.partition("://")[2] for address in addresses} == {"127.0.0.1:1111", "127.0.0.1:2222"}
    assert properties["controller.quorum.voters"] == "1@127.0.0.1:2222"
    assert properties["auto.create.topics.enable"] == "false", "a misspelt name must not make a topic"


def test_the_environment_names_the_broker_to_be_used(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert environment(Settings(kafka_port=1111), home)["AIRTIGHT_KAFKA"] == "127.0.0.1:1111"
    elsewhere = Settings(kafka="there:9092")
    assert environment(elsewhere, home)["AIRTIGHT_KAFKA"] == "there:9092"
    assert elsewhere.kafka_elsewhere
    assert not Settings(kafka="127.0.0.1:9092").kafka_elsewhere, "so a service of ours reads its own environment"


def test_a_format_that_fails_leaves_no_data_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho disk on fire >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{java.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    place = tmp_path / "kafka"
    place.mkdir()
    with pytest.raises(TerminalError, match="disk on fire"):
        kafka.format_once(Settings(), "none", place)
    assert not list(place.glob("*data*"))


def test_a_broker_elsewhere_is_used_in_place_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ensured: list[object] = []
    monkeypatch.setenv("AIRTIGHT_KAFKA", "there:9092")
    monkeypatch.setattr(command, "ensure", lambda servers, topics: ensured.append((servers, topics)))
    monkeypatch.setattr(command, "up", lambda home, names: pytest.fail("nothing of ours is needed"))
    command.start(Home(tmp_path), STREAM)
    assert ensured == [("there:9092", TOPICS)]


def read_all(servers: str) -> list[tuple[bytes, int]]:
    """Every event: the value, and when it was published in milliseconds since 1970."""
    with KafkaConsumer(bootstrap_servers=servers) as consumer:
        partitions = [TopicPartition(EVENTS.name, number) for number in range(EVENTS.partitions)]
        ends = consumer.end_offsets(partitions)
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        held: list[tuple[bytes, int]] = []
        until(
            lambda: (
                held.extend((m.value, m.timestamp) for ms in consumer.poll(500).values() for m in ms)
                or len(held) >= sum(ends.values())
            ),
            "all that was written is read",
        )
        return held


@pytest.mark.slow
def test_a_real_broker_keeps_what_it_was_told(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    settings = command.start(home, STREAM)
    servers = settings.own_kafka
    assert "flights.events: made, 4 partitions" in capsys.readouterr().out
    assert ensure(servers, TOPICS) == [], "done again, nothing is changed"

    at = int(STAMP.timestamp() * 1000)
    absurd = b"x" * 10_000_000
    with KafkaProducer(bootstrap_servers=servers, max_request_size=16_000_000) as producer:
        for value in (b"of 2013", absurd):
            producer.send(EVENTS.name, value, key=b"flight", timestamp_ms=at).get(60)
    assert read_all(servers) == [(b"of 2013", at), (absurd, at)]

    def pid() -> int:
        return next(p.pid for p in Supervisor(home).programs() if p.name == "kafka")

    first = pid()
    assert listening(first) == {"127.0.0.1"}
    os.kill(first, signal.SIGKILL)
    until(lambda: pid() not in (0, first), "another broker runs")
    assert ensure(servers, TOPICS, PATIENCE_S) == [], "the topics outlived it"
    assert read_all(servers) == [(b"of 2013", at), (absurd, at)]

    with socket.create_server(("127.0.0.1", 0)) as stranger:
        taken = replace(settings, flink_artifact_port=stranger.getsockname()[1])
        taken.save(home)
        with pytest.raises(TerminalError, match=r"Port \d+ .* is taken") as refused:
            Supervisor(home).start(settings, ("kafka", "flink"))
        assert "AIRTIGHT_FLINK_ARTIFACT_PORT" in refused.value.remedy, "what is started later is looked at, too"
        settings.save(home)

    assert main(["status"]) == 1, "the others do not run"
    assert "not started; start it: python -m services up flink" in capsys.readouterr().out
    assert main(["down"]) == 0
    assert processes.alive(home) == []

    # Started anew it is the same broker, not a new one.
    command.start(home, STREAM)
    assert "all as declared" in capsys.readouterr().out
    assert len(read_all(servers)) == 2
