"""A broker in memory: partitions as lists, of which every topic is made, and a consumer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata


class Message(NamedTuple):
    offset: int
    timestamp: int
    value: bytes | None
    key: bytes | None = None
    headers: Any = ()
    partition: int = 0


class Broker:
    """By the name that tests give as the servers' address, which finds it again."""

    all: ClassVar[dict[str, Broker]] = {}

    def __init__(self, name: str, partitions: int = 2) -> None:
        self.log: dict[int, list[Message]] = {number: [] for number in range(partitions)}
        self.first = 0
        self.id = "first"
        self.committed: dict[int, int] = {}
        self.all[name] = self

    def add(self, partition: int, timestamp: int, value: bytes | None, headers: Any = ()) -> None:
        held = self.log[partition]
        held.append(Message(len(held), timestamp, value, None, headers, partition))


class Consumer:
    def __init__(self, bootstrap_servers: list[str], **_: Any) -> None:
        self.broker = Broker.all[bootstrap_servers[0]]
        self.at: dict[TopicPartition, int] = {}
        self._cluster = SimpleNamespace(topic_id=lambda topic: self.broker.id)
        self.paused: set[TopicPartition] = set()

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(self.broker.log)

    def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.broker.first)

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {one: len(self.broker.log[one.partition]) for one in partitions}

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.at = dict.fromkeys(partitions, -1)

    def assignment(self) -> set[TopicPartition]:
        return set(self.at)

    def pause(self, *partitions: TopicPartition) -> None:
        self.paused |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.paused -= set(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.at[partition] = offset

    def position(self, partition: TopicPartition) -> int:
        return self.at[partition]

    def poll(self, timeout_ms: int, max_records: int = 500) -> dict[TopicPartition, list[Message]]:
        # A few of each partition, so that there are many polls.
        polled = {}
        for partition, offset in self.at.items():
            if partition in self.paused:
                continue
            if held := self.broker.log[partition.partition][offset : offset + 37]:
                polled[partition] = held
                self.at[partition] = offset + len(held)
        return polled

    def committed(self, partition: TopicPartition) -> int | None:
        return self.broker.committed.get(partition.partition)

    def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> None:
        self.broker.committed |= {partition.partition: place.offset for partition, place in offsets.items()}

    def close(self) -> None:
        pass
