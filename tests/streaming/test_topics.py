"""What is asked of a broker, by a broker made of dicts; the real one is in tests/services/test_kafka.py."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError, TopicAlreadyExistsError, TopicAuthorizationFailedError

from airtight.errors import TerminalError, TransientError
from pipelines.flight_delays.topics import DEAD_LETTERS, EVENTS, TOPICS
from streaming import topics
from streaming.topics import Topic, ensure, servers

A = Topic("a", 2, {"retention.ms": "-1"})


class Broker:
    """As KafkaAdminClient, as far as topics go; keeps what was asked."""

    def __init__(self, held: dict[str, tuple[int, dict[str, str]]] | None = None) -> None:
        self.held = {name: [count, dict(settings)] for name, (count, settings) in (held or {}).items()}
        self.calls: list[str] = []
        self.refusal: Exception | None = None
        self.hidden: set[str] = set()

    def __call__(self, **_: Any) -> Broker:
        return self

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def list_topics(self) -> list[str]:
        return [name for name in self.held if name not in self.hidden]

    def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        return [{"name": name, "partitions": list(range(self.held[name][0]))} for name in names]

    def create_topics(self, topics: dict[str, Any]) -> None:
        self.calls.append("create")
        if self.refusal:
            raise self.refusal
        for name, data in topics.items():
            self.held[name] = [data["num_partitions"], data["configs"]]

    def create_partitions(self, counts: dict[str, int]) -> None:
        self.calls.append("partitions")
        for name, count in counts.items():
            self.held[name][0] = count

    def describe_configs(self, resources: list[Any], config_filter: str) -> dict[str, Any]:
        assert config_filter == "modified", "a default of the broker may be another one tomorrow"
        return {"topic": {one.name: {k: {"value": v} for k, v in self.held[one.name][1].items()} for one in resources}}

    def alter_configs(self, resources: list[Any]) -> dict[str, Any]:
        self.calls.append("alter")
        if self.refusal:
            return {"topic": {one.name: str(self.refusal) for one in resources}}
        for one in resources:
            self.held[one.name][1].update(one.configs)
        return {"topic": {one.name: "OK" for one in resources}}

    def wait_for_topics(self, names: list[str], timeout_ms: int) -> None:
        assert set(names) <= set(self.held)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    made = Broker()
    monkeypatch.setattr(topics, "KafkaAdminClient", made)
    return made


def test_what_is_missing_is_made_and_made_once(broker: Broker) -> None:
    assert ensure("b:1", [A]) == ["a: made, 2 partitions"]
    assert broker.held == {"a": [2, {"retention.ms": "-1"}]}
    assert ensure("b:1", [A]) == []
    assert broker.calls == ["create"]


def test_a_setting_that_differs_is_changed_and_one_that_nobody_declared_stays(broker: Broker) -> None:
    broker.held = {"a": [2, {"retention.ms": "5", "segment.ms": "7"}]}
    assert ensure("b:1", [A]) == ["a: retention.ms 5 -> -1"]
    assert broker.held["a"][1] == {"retention.ms": "-1", "segment.ms": "7"}
    assert ensure("b:1", [A]) == []


def test_a_setting_that_is_the_brokers_default_is_set_all_the_same(broker: Broker) -> None:
    broker.held = {"a": [2, {}]}
    assert ensure("b:1", [A]) == ["a: retention.ms unset -> -1"]


def test_partitions_are_added(broker: Broker) -> None:
    broker.held = {"a": [1, {"retention.ms": "-1"}]}
    assert ensure("b:1", [A]) == ["a: 1 -> 2 partitions"]
    assert broker.held["a"][0] == 2


def test_partitions_are_never_taken_away_and_then_nothing_else_is_changed(broker: Broker) -> None:
    broker.held = {"a": [3, {}]}
    with pytest.raises(TerminalError, match="has more partitions") as refused:
        ensure("b:1", [Topic("new", 1), A])
    assert (refused.value.expected, refused.value.received) == ("2 partitions", "3 partitions")
    assert broker.calls == []


def test_one_that_somebody_else_made_meanwhile_is_no_fault(broker: Broker) -> None:
    broker.held, broker.hidden = {"a": [2, {"retention.ms": "-1"}]}, {"a"}
    broker.refusal = TopicAlreadyExistsError()
    assert ensure("b:1", [A]) == ["a: made, 2 partitions"]


def test_a_refusal_is_told_in_kafkas_words(broker: Broker) -> None:
    broker.held, broker.refusal = {"a": [2, {}]}, TopicAuthorizationFailedError("not yours")
    with pytest.raises(TerminalError, match="not yours"):
        ensure("b:1", [A])
    broker.held = {}
    with pytest.raises(TerminalError, match="not yours"):
        ensure("b:1", [A])


def test_a_broker_that_loses_itself_may_be_asked_again(broker: Broker) -> None:
    broker.refusal = KafkaTimeoutError("too late")
    with pytest.raises(TransientError, match="too late"):
        ensure("b:1", [A])


def test_a_broker_that_is_away_is_told_with_its_address() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(TransientError, match=address) as fault:
            ensure(address, [A], timeout_s=0.5)
    assert "make kafka" in fault.value.remedy


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRTIGHT_KAFKA", raising=False)
    assert servers() == "127.0.0.1:9092"
    monkeypatch.setenv("AIRTIGHT_KAFKA", "one:1,two:2")
    assert servers() == "one:1,two:2"


def test_events_of_2013_do_not_expire_and_what_is_absurdly_large_arrives() -> None:
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)
    for topic in (EVENTS, DEAD_LETTERS):
        assert topic.settings["retention.ms"] == topic.settings["retention.bytes"] == "-1"
        assert int(topic.settings["max.message.bytes"]) > 10_000_000
    assert DEAD_LETTERS.partitions == 1
