"""A broker in memory: partitions as lists, and a consumer."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from kafka import TopicPartition


class Message(NamedTuple):
    offset: int
    timestamp: int
    value: bytes | None
    key: bytes | None = None


class Broker:
    """By the name that tests give as the servers' address, which finds it again."""

    all: ClassVar[dict[str, Broker]] = {}

    def __init__(self, name: str, partitions: int = 2) -> None:
        self.log: dict[int, list[Message]] = {number: [] for number in range(partitions)}
        self.first = 0
        self.committed: dict[int, int] = {}
        self.all[name] = self

    def add(self, partition: int, timestamp: int, value: bytes | None) -> None:
        held = self.log[partition]
        held.append(Message(len(held), timestamp, value))


class Consumer:
    def __init__(self, bootstrap_servers: list[str], **_: Any) -> None:
        self.broker = Broker.all[bootstrap_servers[0]]
        self.at: dict[TopicPartition, int] = {}

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(self.broker.log)

    def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.broker.first)

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {one: len(self.broker.log[one.partition]) for one in partitions}

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.at = dict.fromkeys(partitions, -1)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.at[partition] = offset

    def position(self, partition: TopicPartition) -> int:
        return self.at[partition]

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Message]]:
        # A few of each partition, so that there are many polls.
        polled = {}
        for partition, offset in self.at.items():
            if held := self.broker.log[partition.partition][offset : offset + 37]:
                polled[partition] = held
                self.at[partition] = offset + len(held)
        return polled

    def committed(self, partition: TopicPartition) -> int | None:
        return self.broker.committed.get(partition.partition)

    def close(self) -> None:
        pass
