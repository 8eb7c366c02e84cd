"""The prediction log in Kafka: messages, and what becomes of rows that it does not take."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from airtight.predictions import JOURNAL
from components.data import predictions
from serving.prediction_log import claimed_journal, journal_rows, parquet_files
from serving.prediction_log import shipper as module
from serving.prediction_log.journals import Journals
from serving.prediction_log.kafka_sender import KafkaAway, KafkaSender, as_messages
from serving.prediction_log.personal import Personal
from serving.prediction_log.settings import Destination, LogSettings
from serving.prediction_log.shipper import Job, Shipper
from serving.prediction_log.writer import Warnings, Writer
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


class Picky(Producer):
    """A row is too large for it."""

    def send(self, topic, key, value):
        if b'"row":0' in value:
            raise MessageSizeTooLargeError
        return super().send(topic, key, value)


class Spool:
    """A spool with a shipper for it, in this process.

    Args:
      folder: Where.
      fallback: Whether there is one.
      connect: Makes producers.
    """

    def __init__(self, folder: Path, connect, *, fallback: bool = True) -> None:
        self.fallback = folder / "fallback"
        self.root = folder / "spool"
        self.journals = Journals(self.root, 3600)
        job = Job(str(self.root), self.journals.owner, "a:1,b:2", "answers", str(self.fallback) if fallback else "")
        self.sender = KafkaSender(job.servers, job.topic, connect)
        self.shipper = Shipper(job, self.sender)

    def put(self, *notes) -> None:
        write(self.journals, *notes)
        self.journals.roll(everything=True)

    @property
    def waiting(self) -> int:
        return len(list(self.root.rglob(f"*{JOURNAL}")))

    def fallen_back(self) -> list[dict]:
        return predictions.read(self.fallback, "m", AROUND).to_pylist()


@pytest.fixture
def reports(monkeypatch):
    lines: list[dict] = []
    monkeypatch.setattr(os, "write", lambda handle, content: lines.append(json.loads(content)))
    return lines


def test_messages_are_json_by_request_with_instants_and_without_nan():
    (table,) = tables([note(answered(), headers=[("x-request-id", "r1")])], Personal())
    messages = list(as_messages(table))
    assert [key for key, _ in messages] == [b"r1", b"r1"]
    first, second = (json.loads(value) for _, value in messages)
    assert first["inputs"] == {"origin": "JFK", "delay": 1.5} and first["outputs"] == {"probability": 0.25}
    assert second["inputs"]["delay"] is None
    assert datetime.fromisoformat(first["time"]) == datetime.fromtimestamp(NOW, UTC)


def test_journals_are_gone_once_kafka_has_their_rows_and_the_server_is_told_how_many(tmp_path, reports):
    def connect(**settings):
        assert settings["bootstrap_servers"] == ["a:1", "b:2"] and settings["acks"] == "all"
        return producer

    producer = Producer()
    spool = Spool(tmp_path, connect)
    write(spool.journals, note(answered(1)))
    assert spool.shipper.work() and not producer.sent, "the server still holds the journal"
    spool.put(note(answered(3)))
    assert not spool.shipper.work()
    assert len(producer.sent) == 4 and producer.sent[0][0] == "answers" and not spool.waiting
    assert [report["written"] for report in reports] == [1, 3]
    spool.shipper.close()
    assert producer.closed and not spool.fallback.exists()


def test_rows_wait_for_a_kafka_that_is_away_and_are_sent_when_it_is_back(tmp_path, reports):
    made = []

    def connect(**unused):
        made.append(Producer(fails={1}) if not made else Producer())
        return made[-1]

    spool = Spool(tmp_path, connect)
    spool.put(note(answered(3)))
    spool.shipper.work()
    assert spool.waiting == 1 and made[0].closed and spool.shipper.due_at <= time.monotonic() + module.AWAY_S
    spool.put(note(answered(2)))
    spool.shipper.work()
    assert len(made) == 1 and spool.waiting == 2, "Kafka is left alone for a while"
    spool.sender._away_until = 0
    spool.shipper.work()
    assert len(made[1].sent) == 5 and not spool.waiting and not visible(tmp_path)
    assert sum(report["written"] for report in reports) == 5


@pytest.mark.parametrize("last", [True, False])
def test_what_has_waited_for_long_and_what_is_left_at_the_end_goes_to_the_fallback_in_one_file(tmp_path, reports, last):
    def connect(**unused):
        raise KafkaTimeoutError

    spool = Spool(tmp_path, connect)
    spool.put(note(answered(3)))
    if not last:
        (path,) = spool.root.rglob(f"*{JOURNAL}")
        long_ago = time.time() - module.FALLBACK_S - 1
        os.utime(path, (long_ago, long_ago))
    spool.put(note(answered(2)))
    spool.shipper.work(last)
    assert len(visible(spool.fallback)) == 1 and len(spool.fallen_back()) == 5 and not spool.waiting
    assert sum(report["written"] for report in reports) == 5


def test_a_journal_without_rows_or_that_cannot_be_opened_keeps_no_other_from_the_fallback(tmp_path, reports, caplog):
    def connect(**unused):
        raise KafkaTimeoutError

    spool = Spool(tmp_path, connect)
    spool.put(note(answered(2)))
    (path,) = spool.root.rglob(f"*{JOURNAL}")
    empty, torn, folder = (path.with_name(f".0{name}{JOURNAL}") for name in ("empty", "torn", "folder"))
    empty.touch()
    torn.write_bytes(path.read_bytes()[:20])
    folder.mkdir()  # Stands for a journal that this process may not open.
    for _ in range(2):
        spool.shipper.work()
    assert len([r for r in caplog.records if "cannot be shipped now" in r.getMessage()]) == 1, "not at each look"
    spool.shipper.work(last=True)
    assert len(spool.fallen_back()) == 2 and not any(journal.exists() for journal in (path, empty, torn))


def test_a_fallback_that_cannot_be_written_is_not_tried_at_each_look(tmp_path, reports, caplog):
    def connect(**unused):
        raise KafkaTimeoutError

    spool = Spool(tmp_path, connect)
    spool.fallback.write_text("in its place")
    spool.put(note(answered(2)))
    (path,) = spool.root.rglob(f"*{JOURNAL}")
    long_ago = time.time() - module.FALLBACK_S - 1
    os.utime(path, (long_ago, long_ago))
    for _ in range(3):
        spool.shipper.work()
    assert len([r for r in caplog.records if "cannot be moved" in r.getMessage()]) == 1 and spool.waiting == 1
    spool.fallback.unlink()
    spool.shipper.work(last=True)
    assert len(spool.fallen_back()) == 2 and not spool.waiting


def test_a_journal_that_cannot_be_read_keeps_no_other_from_the_fallback(tmp_path, reports, monkeypatch):
    def read(path):
        if path == damaged:
            raise pa.ArrowNotImplementedError("damaged")
        return slices(path)

    spool, slices = Spool(tmp_path, Producer), claimed_journal.slices
    spool.sender._away_until = time.monotonic() + 60
    for _ in range(3):
        spool.put(note(answered(2)))
    damaged, *others = sorted(spool.root.rglob(f"*{JOURNAL}"))
    with monkeypatch.context() as patch:
        patch.setattr(claimed_journal, "slices", read)
        spool.shipper.work(last=True)
    assert len(spool.fallen_back()) == 4 and damaged.exists() and not any(path.exists() for path in others)
    spool.shipper.work(last=True)
    assert len(spool.fallen_back()) == 6 and not spool.waiting


def test_a_journal_that_cannot_be_removed_ends_no_shipper_and_its_rows_are_written_once(tmp_path, reports, monkeypatch):
    def connect(**unused):
        raise KafkaTimeoutError

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(JOURNAL):
            raise PermissionError(path)
        unlink(path, missing_ok)

    spool, unlink = Spool(tmp_path, connect), Path.unlink
    spool.put(note(answered(2)))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        spool.shipper.work(last=True)
    assert spool.waiting == 1 and not reports
    spool.shipper.work(last=True)
    assert len(spool.fallen_back()) == 2 and not spool.waiting and len(reports) == 1


def test_the_disk_keeps_all_folders_that_are_made_for_the_fallback(tmp_path, reports, monkeypatch):
    def connect(**unused):
        raise KafkaTimeoutError

    synced: list[Path] = []
    monkeypatch.setattr(parquet_files, "sync_folders", lambda *folders: synced.extend(folders))
    spool = Spool(tmp_path, connect)
    spool.put(note(answered(2)))
    spool.shipper.work(last=True)
    (file,) = visible(spool.fallback)
    assert set(synced) >= {file.parent, file.parent.parent, spool.fallback, tmp_path}


def test_half_a_file_that_a_killed_shipper_left_in_the_fallback_is_gone_when_kafka_has_its_rows(tmp_path, reports):
    spool = Spool(tmp_path, lambda **unused: Producer())
    spool.put(note(answered(2)))
    (path,) = spool.root.rglob(f"*{JOURNAL}")
    folder = spool.fallback / path.parent.relative_to(spool.root)
    folder.mkdir(parents=True)
    name = path.name.removesuffix(JOURNAL)
    (folder / f"{name}.parquet.{'0' * 32}.tmp").write_bytes(b"half of it")
    spool.shipper.work()
    assert not spool.waiting and not list(folder.iterdir())


def test_without_a_fallback_rows_wait_as_long_as_kafka_is_away(tmp_path):
    def connect(**unused):
        raise KafkaTimeoutError

    spool = Spool(tmp_path, connect, fallback=False)
    spool.put(note(answered(3)))
    spool.shipper.work(last=True)
    assert spool.waiting == 1
    with pytest.raises(KafkaAway, match="KafkaTimeoutError"):
        spool.sender.check()


def test_a_durable_log_without_a_fallback_waits_for_kafka_and_loses_no_row_that_is_too_large(tmp_path, reports):
    settings = LogSettings(Destination("kafka", "answers", "a:1"), spool=tmp_path / "spool", durable=True)
    writer = Writer(settings, Warnings(), lambda *unused: None)
    assert settings.destination is not None
    sink = writer._open(settings.destination)
    shipper = Shipper(sink.job, KafkaSender("a:1", "answers", lambda **unused: Picky()))
    shipper._sender._away_until = time.monotonic() + 60
    write(sink.journals, note(answered(3)))
    sink.journals.roll(everything=True)
    shipper.work(last=True)
    assert len(list(sink.journals.root.rglob(f"*{JOURNAL}"))) == 1 and not visible(tmp_path / "spool" / "too-large")
    shipper._sender._away_until = 0
    shipper.work()
    assert [row["row"] for row in predictions.read(settings.spool / "too-large", "m", AROUND).to_pylist()] == [0]
    assert not list(sink.journals.root.rglob(f"*{JOURNAL}"))


def test_what_falls_back_together_is_bounded_by_its_bytes(tmp_path, reports, monkeypatch):
    def connect(**unused):
        raise KafkaTimeoutError

    spool = Spool(tmp_path, connect)
    for _ in range(4):
        spool.put(note(answered(2)))
    size = next(spool.root.rglob(f"*{JOURNAL}")).stat().st_size
    monkeypatch.setattr(module, "ROLL_BYTES", 2 * size)
    spool.shipper.work(last=True)
    assert len(visible(spool.fallback)) == 2 and len(spool.fallen_back()) == 8


@pytest.mark.parametrize("fallback", [True, False])
def test_a_row_too_large_for_a_message_goes_to_the_fallback_or_is_lost_and_counted(tmp_path, reports, fallback):
    producer = Picky()
    spool = Spool(tmp_path, lambda **unused: producer, fallback=fallback)
    spool.put(note(answered(3)))
    spool.shipper.work()
    assert len(producer.sent) == 2 and not producer.closed and not spool.waiting, "Kafka is not away"
    assert [row["row"] for row in spool.fallen_back()] == ([0] if fallback else [])
    assert [(report["written"], report["too_large"]) for report in reports] == ([(3, 0)] if fallback else [(2, 1)])


def test_a_long_journal_is_sent_piece_by_piece(tmp_path, reports, monkeypatch):
    steps: list[str] = []

    class Watched(Producer):
        def send(self, topic, key, value):
            steps.append("send")
            return super().send(topic, key, value)

    spool, read = Spool(tmp_path, lambda **unused: Watched()), claimed_journal.rows_of
    spool.put(note(answered(3)), note(answered(3)))
    monkeypatch.setattr(journal_rows, "TOGETHER", 3)
    monkeypatch.setattr(claimed_journal, "rows_of", lambda batch: steps.append("read") or read(batch))
    spool.shipper.work()
    assert steps == ["read", "read", *["read", *["send"] * 3] * 2] and not spool.waiting
    assert [report["written"] for report in reports] == [6]


def test_a_flush_that_ends_late_sends_the_rows_again(tmp_path, reports):
    class Slow(Producer):
        def flush(self, timeout):
            raise KafkaTimeoutError

    producer = Slow()
    spool = Spool(tmp_path, lambda **unused: producer)
    spool.put(note(answered(3)))
    spool.shipper.work()
    assert len(producer.sent) == 3 and not spool.waiting, "what was confirmed was taken"
    producer.fails = {4}
    spool.put(note(answered(3)))
    spool.shipper.work()
    assert producer.closed and spool.waiting == 1
