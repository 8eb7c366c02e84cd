"""Topics as they are declared, and a broker whose topics are made so."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from airtight.errors import TerminalError, TransientError

SERVERS = "AIRTIGHT_KAFKA"
"""Environment variable with the broker's address, host:port,host:port."""
LOCAL = "127.0.0.1:9092"
"""Where the local services' broker listens unless they were told otherwise."""
TIMEOUT_S = 60.0
RECONNECT_MS = 1000
"""A broker that is away is tried again after so long at most."""


@dataclass(frozen=True)
class Topic:
    """One topic and all that is asked of it.

    Args:
      name: Name in Kafka.
      partitions: So many; they can become more, never fewer.
      settings: Kafka's topic settings by name, values as Kafka writes them.
      description: What its messages are, for people.
    """

    name: str
    partitions: int
    settings: Mapping[str, str] = field(default_factory=dict)
    description: str = ""


def servers() -> str:
    """The broker's address: what AIRTIGHT_KAFKA names, or the local broker's default."""
    return os.environ.get(SERVERS) or LOCAL


def ensure(address: str, topics: Sequence[Topic], timeout_s: float = TIMEOUT_S) -> list[str]:
    """Makes the broker's topics as they are declared; done again it changes nothing.

    A setting that was made for a topic by hand and is not declared stays as it is. Where partitions are added, later
    messages of a key may go to another partition than its earlier ones.

    Args:
      address: The broker, host:port,host:port.
      topics: What should be.
      timeout_s: How long a broker that is just starting is waited for.

    Returns:
      What was changed, a line each; empty when all was so already.

    Raises:
      TerminalError: A topic has more partitions than declared, or Kafka refuses a setting; where partitions are too
        many, nothing at all has been changed.
      TransientError: The broker is away.
    """
    with _admin(address, timeout_s) as admin:
        there = set(admin.list_topics())
        known = [topic for topic in topics if topic.name in there]
        partitions = _partitions(admin, known)
        for topic in known:
            _refuse_fewer(topic, partitions[topic.name])
        changes = [_create(admin, topic) for topic in topics if topic.name not in there]
        for topic in known:
            if partitions[topic.name] < topic.partitions:
                admin.create_partitions({topic.name: topic.partitions})
                changes.append(f"{topic.name}: {partitions[topic.name]} -> {topic.partitions} partitions")
        changes += _alter(admin, known)
        # A topic is known to the controller before the broker leads its partitions.
        admin.wait_for_topics([topic.name for topic in topics], timeout_ms=int(timeout_s * 1000))
    return changes


@contextlib.contextmanager
def _admin(address: str, timeout_s: float) -> Iterator[Any]:
    """A client of the broker's administration; what it raises becomes a fault of ours."""
    try:
        with KafkaAdminClient(
            bootstrap_servers=address.split(","),
            bootstrap_timeout_ms=int(timeout_s * 1000),
            # Its own maximum is 30 s: a broker that is up after ten would be taken for one that is away.
            reconnect_backoff_max_ms=RECONNECT_MS,
        ) as admin:
            yield admin
    except (KafkaError, OSError, RuntimeError, ValueError) as error:
        # A ValueError is a setting that Kafka does not know or want, a RuntimeError a controller that is not found yet.
        if isinstance(error, (OSError, RuntimeError)) or getattr(error, "retriable", False):
            raise TransientError(
                "Kafka does not answer.",
                expected=f"a broker at {address} within {timeout_s:g} s",
                received=str(error),
                remedy=f"Start it: make kafka; or name another by {SERVERS}.",
            ) from error
        raise TerminalError(
            "Kafka refuses the topics as they are declared.",
            expected="names, partitions and settings that Kafka knows, and a user who may administer topics",
            received=str(error)[:500],
            remedy="Correct the declaration of the topics, and ensure them again.",
        ) from error


def _partitions(admin: Any, topics: Sequence[Topic]) -> dict[str, int]:
    described = admin.describe_topics([topic.name for topic in topics]) if topics else []
    return {topic["name"]: len(topic["partitions"]) for topic in described}


def _refuse_fewer(topic: Topic, partitions: int) -> None:
    if partitions > topic.partitions:
        raise TerminalError(
            f"The topic {topic.name} has more partitions than are declared, and Kafka takes none away.",
            expected=f"{topic.partitions} partitions",
            received=f"{partitions} partitions",
            remedy=f"Declare {partitions}, or make a topic of another name; deleting this one deletes its messages.",
        )


def _create(admin: Any, topic: Topic) -> str:
    # Somebody else may make it at the same moment; whoever comes second finds it as declared.
    with contextlib.suppress(TopicAlreadyExistsError):
        admin.create_topics({topic.name: {"num_partitions": topic.partitions, "configs": dict(topic.settings)}})
    return f"{topic.name}: made, {topic.partitions} partitions"


def _alter(admin: Any, topics: Sequence[Topic]) -> list[str]:
    """Sets what differs. A default of the broker does not count: it may be another one tomorrow."""
    if not topics:
        return []
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics]
    modified = admin.describe_configs(resources, config_filter="modified")["topic"]
    changes = []
    for topic in topics:
        now = {name: setting["value"] for name, setting in modified[topic.name].items()}
        wanted = {name: value for name, value in topic.settings.items() if now.get(name) != value}
        if not wanted:
            continue
        answer = admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name, wanted)])
        if (outcome := answer["topic"][topic.name]) != "OK":
            raise ValueError(outcome)
        changes += [f"{topic.name}: {name} {now.get(name, 'unset')} -> {value}" for name, value in wanted.items()]
    return changes
