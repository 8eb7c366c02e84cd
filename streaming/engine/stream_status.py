"""How a stream does that runs as a job of Flink: what Flink's REST API and the broker say of it, without Beam."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from airtight import fingerprint
from streaming.engine.flink_rest import Flink, JobStatus
from streaming.engine.job_records import JobRecord

PATIENCE_MS = 4000
"""How long a broker has to answer."""


@dataclass(frozen=True)
class Partition:
    """One partition of the topics that are read.

    Args:
      topic: Its topic.
      number: Its number.
      committed: The next offset that is read after a fault, as the last checkpoint committed it.
      end: The offset after its last message.
    """

    topic: str
    number: int
    committed: int
    end: int

    @property
    def lag(self) -> int:
        """Messages that no checkpoint holds yet."""
        return max(0, self.end - self.committed)


@dataclass(frozen=True)
class StreamStatus:
    """How a stream does.

    Args:
      at: When Flink was asked, ISO 8601.
      job: What Flink says; None for a job that it does not know any more.
      heap_share: Of the TaskManagers' heaps the largest share that is used, 0 to 1.
      partitions: In order; empty while the broker does not answer, or a topic is not there.
      dead_letters: Messages in the topic of dead letters; None where there is none, or the broker does not answer.
      broker: Why the broker could not say how far its topics are read, or "".
    """

    at: str
    job: JobStatus | None
    heap_share: float
    partitions: tuple[Partition, ...]
    dead_letters: int | None
    broker: str

    @property
    def lag(self) -> int | None:
        """Messages of all partitions that no checkpoint holds yet; None while the broker does not say."""
        return None if self.broker else sum(partition.lag for partition in self.partitions)

    @property
    def watermark(self) -> str:
        """Event time of the whole job, ISO 8601; "" while it has none."""
        mark = self.job.watermark if self.job else None
        return "" if mark is None else iso(mark)

    @property
    def progress(self) -> tuple[Any, ...]:
        """What changes when something is read or event time goes on."""
        return self.watermark, *(partition.committed for partition in self.partitions)

    def to_json(self) -> dict[str, Any]:
        """Plain values, lag and watermark with them."""
        return asdict(self) | {"lag": self.lag, "watermark": self.watermark}

    def __str__(self) -> str:
        job = self.job
        parts = [
            f"lag {'not known' if self.lag is None else self.lag}",
            f"watermark {self.watermark or 'none yet'}",
            *(
                [
                    f"{job.job.state}, {job.checkpoints.completed} checkpoints, {job.checkpoints.failed} failed",
                    f"{job.failures} failures, {job.dropped} dropped as late",
                    f"heap {self.heap_share:.0%}, Python {job.worker_memory_mb:.0f} MB",
                ]
                if job
                else ["Flink does not know the job"]
            ),
            *([] if self.dead_letters is None else [f"dead letters {self.dead_letters}"]),
            *([f"of the broker: {self.broker}"] if self.broker else []),
        ]
        return "; ".join(parts)


def status(flink: Flink, record: JobRecord) -> StreamStatus:
    """Asks Flink and the broker.

    Raises:
      TransientError: Flink does not answer.
    """
    known = any(job.id == record.id for job in flink.jobs())
    partitions, dead, broker = _offsets(record)
    now = iso(datetime.now(UTC).timestamp())
    job = flink.status(record.id) if known else None
    return StreamStatus(now, job, flink.heap_share(), partitions, dead, broker)


def code_of(*modules: str) -> str:
    """SHA-256 of every file of ours that modules rest on, and of the versions of the packages, hexadecimal."""
    fingerprint.look_again()
    files, packages = fingerprint.closure(modules)
    content = json.dumps([fingerprint.digests(files), fingerprint.versions(packages)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def iso(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _offsets(record: JobRecord) -> tuple[tuple[Partition, ...], int | None, str]:
    """Partitions of the topics, dead letters, and why the broker could not be asked."""
    # Kafka's client takes longer to import than all the rest.
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import KafkaError

    # Each look would be fifteen lines of connecting in the log.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=record.servers.split(","),
            group_id=record.name,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            metrics_enabled=False,
            bootstrap_timeout_ms=PATIENCE_MS,
            request_timeout_ms=PATIENCE_MS,
        )
        with contextlib.closing(consumer):

            def parts_of(topic: str) -> list[Any]:
                return [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]

            parts = [part for topic in record.topics for part in parts_of(topic)]
            if missing := {*record.topics} - {part.topic for part in parts}:
                return (), None, f"there is no topic {', '.join(sorted(missing))}"
            first, ends = consumer.beginning_offsets(parts), consumer.end_offsets(parts)
            partitions = tuple(
                Partition(part.topic, part.partition, consumer.committed(part) or first[part], ends[part])
                for part in parts
            )
            if not record.dead_letters:
                return partitions, None, ""
            letters = parts_of(record.dead_letters)
            first, ends = consumer.beginning_offsets(letters), consumer.end_offsets(letters)
            return partitions, sum(ends[part] - first[part] for part in letters), ""
    except (KafkaError, OSError, RuntimeError, ValueError) as error:
        return (), None, f"it does not answer: {type(error).__name__}: {error}"[:300]
