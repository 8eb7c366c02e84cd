"""The prediction log in Kafka: messages, and where rows go that it does not take."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from components.data import predictions
from serving.prediction_log.kafka_sink import KafkaSink, NotTaken
from serving.prediction_log.parquet_sink import ParquetSink
from serving.prediction_log.personal import Personal
from serving.prediction_log.rows import as_messages
from tests.serving.notes import AROUND, NOW, answered, note, tables, visible, write


class Producer:
    """Stands for Kafka's client: takes messages, or says that it did not."""

    def __init__(self, fails: set[int] | None = None) -> None:
        self.sent: list[tuple[str, bytes, bytes]] = []
        self.fails = fails or set()
        self.closed = False

    def send(self, topic, key, value):
        number = len(self.sent)
        self.sent.append((topic, key, value))
        lost = number in self.fails
        error = RuntimeError("no leader") if lost else None
        return SimpleNamespace(succeeded=lambda: not lost, failed=lambda: lost, exception=error)

    def flush(self, timeout):
        pass

    def close(self, timeout):
        self.closed = True


def test_messages_are_json_by_request_with_instants_and_without_nan():
    ((table,),) = [list(tables([note(answered(), headers=[("x-request-id", "r1")])], Personal()))]
    messages = list(as_messages(table))
    assert [key for key, _ in messages] == [b"r1", b"r1"]
    told = [module_json(value) for _, value in messages]
    assert told[0]["inputs"] == {"origin": "JFK", "delay": 1.5} and told[0]["outputs"] == {"probability": 0.25}
    assert told[1]["inputs"]["delay"] is None
    assert datetime.fromisoformat(told[0]["time"]) == datetime.fromtimestamp(NOW, UTC)


def module_json(value: bytes) -> dict:
    import json

    return json.loads(value)


def test_what_kafka_does_not_take_goes_to_files_and_kafka_is_left_alone_for_a_while(tmp_path, monkeypatch):
    made = []

    def connect(**settings):
        assert settings["bootstrap_servers"] == ["a:1", "b:2"] and settings["acks"] == "all"
        made.append(Producer(fails={1}) if not made else Producer())
        return made[-1]

    sink = KafkaSink("a:1,b:2", "answers", ParquetSink(tmp_path, 3600), connect)
    write(sink, note(answered(3)))
    assert len(made[0].sent) == 3 and made[0].closed
    (lost,) = predictions.read(tmp_path, "m", AROUND).to_pylist()
    assert lost["row"] == 1
    write(sink, note(answered(3)))  # Away: nobody connects.
    assert len(made) == 1 and predictions.read(tmp_path, "m", AROUND).num_rows == 4
    sink._away_until = 0
    write(sink, note(answered(3)))
    assert len(made[1].sent) == 3 and made[1].sent[0][0] == "answers"
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 4
    sink.roll(everything=True)
    assert made[1].closed and len(visible(tmp_path)) == 1


def test_a_row_too_large_for_a_message_goes_to_files_and_a_flush_that_ends_late_costs_what_was_not_confirmed(tmp_path):
    class Slow(Producer):
        def send(self, topic, key, value):
            if b'"row":0' in value:
                raise MessageSizeTooLargeError
            return super().send(topic, key, value)

        def flush(self, timeout):
            raise KafkaTimeoutError

    producer = Slow()
    sink = KafkaSink("a:1", "answers", ParquetSink(tmp_path, 3600), lambda **unused: producer)
    write(sink, note(answered(3)))
    assert len(producer.sent) == 2 and not producer.closed, "Kafka is not away"
    assert [row["row"] for row in predictions.read(tmp_path, "m", AROUND).to_pylist()] == [0]
    producer.fails = {3}
    write(sink, note(answered(3)))
    assert producer.closed and predictions.read(tmp_path, "m", AROUND).num_rows == 3


def test_without_a_fallback_a_kafka_that_is_away_costs_its_rows_and_says_so():
    def connect(**unused):
        raise KafkaTimeoutError

    with pytest.raises(NotTaken, match="KafkaTimeoutError") as raised:
        write(KafkaSink("nobody:1", "answers", connect=connect), note(answered(3)))
    assert raised.value.rows == 3
