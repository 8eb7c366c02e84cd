"""The prediction log: every answer is in it, whoever asked and however the server ended, at no request's cost."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from airtight.errors import TerminalError
from airtight.interval import Interval
from airtight.predictions import JOURNAL, folder_of
from components.data import predictions
from serving import config, metrics
from serving.config import ModelSettings
from serving.prediction_log import log as module
from serving.prediction_log import parquet_sink
from serving.prediction_log.kafka_sink import KafkaSink, NotTaken
from serving.prediction_log.log import DROPPED, PredictionLog, _sampled
from serving.prediction_log.parquet_sink import ParquetSink, recover
from serving.prediction_log.personal import Personal, read_key
from serving.prediction_log.rows import Answered, Note, as_messages, groups
from serving.prediction_log.settings import Destination, Logging, LogSettings
from serving.signature import Signature, TensorSpec
from serving.versions import Model, Registry
from tests.serving import models

NOW = 1_790_000_000.25
DAY = datetime.fromtimestamp(NOW, UTC).date().isoformat()
AROUND = Interval(datetime.fromtimestamp(NOW - 60, UTC), datetime.fromtimestamp(NOW + 60, UTC))


def spec(name: str, dtype: tf.DType, shape: tuple[int | None, ...] | None = (None,)) -> TensorSpec:
    return TensorSpec(name, name, dtype, np.dtype(dtype.as_numpy_dtype), shape)


SIGNATURE = Signature(
    "serving_default",
    "tensorflow/serving/predict",
    (spec("origin", tf.string), spec("delay", tf.float32)),
    (spec("probability", tf.float32),),
    lambda *unused: [],
)


def texts(*values: bytes) -> np.ndarray:
    return np.array(values, object)


def answered(rows: int = 2, version: int = 7) -> Answered:
    origins = texts(*[b"JFK", b"", b"LGA"][:rows])
    delays = np.array([1.5, np.nan, -3.0], np.float32)[:rows]
    return Answered(version, SIGNATURE, [origins, delays], [np.array([0.25, 0.5, 0.75], np.float32)[:rows]])


def note(*calls: Answered, code: str = "OK", headers=(), at: float = NOW, model: str = "m") -> Note:
    return Note(at, model, None, "REST", "Predict", code, 0.002, headers, calls, 1.0, 1000)


def tables(notes: list[Note], personal: Personal) -> list[pa.Table]:
    return [group.table(personal) for group in groups(notes, personal)]


def rows_of(*notes: Note, personal: Personal | None = None) -> list[dict]:
    return [row for table in tables(notes, personal or Personal()) for row in table.to_pylist()]


def test_each_example_is_a_row_with_a_column_for_each_feature():
    headers = [(b"x-request-id", b"r1"), (b"x-caller-id", b"Z\xc3\xbcrich"), (b"x-airtight-side", b"candidate")]
    first, second = rows_of(note(answered(), headers=headers))
    assert first["input_origin"] == "JFK" and first["input_delay"] == 1.5 and first["output_probability"] == 0.25
    assert second["input_origin"] == "" and np.isnan(second["input_delay"])
    assert [row["row"] for row in (first, second)] == [0, 1] and first["rows"] == 2
    assert {"r1"} == {row["request_id"] for row in (first, second)}
    told = {name: first[name] for name in ("model", "version", "side", "caller", "code", "latency_ms", "signature")}
    assert told == {
        "model": "m",
        "version": 7,
        "side": "candidate",
        "caller": "Zürich",
        "code": "OK",
        "latency_ms": 2.0,
        "signature": "serving_default",
    }
    assert first["time"] == datetime.fromtimestamp(NOW, UTC)


def test_requests_without_an_id_get_one_each_and_refused_ones_have_a_row_without_examples():
    rows = rows_of(note(answered(1)), note(answered(1)), note(code="INVALID_ARGUMENT"))
    assert len({row["request_id"] for row in rows}) == 3
    refused = rows[-1]
    assert (refused["code"], refused["rows"], refused["version"]) == ("INVALID_ARGUMENT", 0, None)
    # A request that ran and was answered too late was asked something, and got no answer.
    (late,) = rows_of(note(answered(1), code="DEADLINE_EXCEEDED"))
    assert late["input_origin"] == "JFK" and "output_probability" not in late


def test_what_has_no_column_is_json_by_name():
    signature = Signature("s", "", (spec("pair", tf.float32, (None, 2)),), (spec("y", tf.float32, ()),), lambda *x: [])
    call = Answered(1, signature, [np.ones((3, 2), np.float32)], [np.float32(4)[()]])
    call.outputs = [np.array(4, np.float32)]  # No batch: the whole request is one row.
    (row,) = rows_of(note(call))
    assert row["inputs_json"] == '{"pair":[[1.0,1.0],[1.0,1.0],[1.0,1.0]]}' and row["outputs_json"] == '{"y":4.0}'
    call.outputs = [np.arange(3, dtype=np.float32)]
    rows = rows_of(note(call))
    assert [row["inputs_json"] for row in rows] == ['{"pair":[1.0,1.0]}'] * 3
    assert [row["output_y"] for row in rows] == [0.0, 1.0, 2.0]


def test_a_call_without_examples_has_one_row_without_features_and_takes_no_others_with_it():
    nothing = Signature("constant", "", (), (spec("y", tf.float32),), lambda: [])
    two = Answered(7, nothing, [], [np.array([1, 2], np.float32)])
    none = Answered(7, nothing, [], [np.array([], np.float32)])
    rows = rows_of(note(answered(2)), note(answered(0)), note(two), note(none))
    told = [(row["signature"], row["rows"], row["row"]) for row in rows]
    assert told == [
        ("serving_default", 2, 0),
        ("serving_default", 2, 1),
        ("serving_default", 0, 0),
        ("constant", 2, 0),
        ("constant", 2, 1),
        ("constant", 0, 0),
    ]
    assert rows[0]["input_origin"] == "JFK" and "input_origin" not in rows[2] and rows[2]["version"] == 7
    assert rows[4]["output_y"] == 2.0


def serialized(**features) -> bytes:
    example = tf.train.Example()
    for name, value in features.items():
        told = example.features.feature[name]
        (told.bytes_list if isinstance(value, bytes) else told.float_list).value.append(value)
    return example.SerializeToString()


def test_a_personal_column_is_hashed_or_left_out_also_inside_of_serialized_examples():
    personal = Personal(frozenset({"origin", "caller"}), frozenset({"delay"}), b"k" * 32)
    first, second = rows_of(note(answered(), headers=[("x-caller-id", "me")]), personal=personal)
    assert "input_delay" not in first and len(first["input_origin"]) == 64 and second["input_origin"] is None
    assert first["caller"] not in ("me", None)
    assert Personal(personal.hashed, frozenset(), b"other").hashes([b"JFK"]) != personal.hashes([b"JFK"])

    signature = Signature("s", "", (spec("examples", tf.string),), (spec("y", tf.float32),), lambda *x: [])
    call = Answered(1, signature, [texts(serialized(origin=b"JFK", delay=1.0, hour=6.0))], [np.zeros(1, np.float32)])
    (row,) = rows_of(note(call), personal=personal)
    assert "JFK" not in str(row) and "delay" not in str(row) and '"hour":6.0' in row["inputs_json"]
    assert first["input_origin"] in row["inputs_json"], "the same value is the same hash wherever it stands"


def test_bytes_that_are_no_text_are_kept_in_base64():
    call = answered(1)
    call.inputs = [texts(b"\xff\x00"), call.inputs[1]]
    assert rows_of(note(call))[0]["input_origin"] == "b64:/wA="


def test_the_key_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "run" / "key"
    key = read_key(path)
    assert key == read_key(path) and len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and os.listdir(path.parent) == ["key"]
    path.chmod(0o644)
    with pytest.raises(TerminalError, match="mode 644"):
        read_key(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(TerminalError, match="cannot be used"):
        read_key(path)


def test_sampling_by_id_is_the_same_on_every_server_and_has_the_rate():
    chosen = [_sampled([(b"x-request-id", f"r{i}".encode())], 0.25) for i in range(4000)]
    again = [_sampled((("x-request-id", f"r{i}"),), 0.25) for i in range(4000)]
    assert chosen == again and 900 < sum(chosen) < 1100
    more = [_sampled([(b"x-request-id", f"r{i}".encode())], 0.5) for i in range(4000)]
    assert all(wide for wide, narrow in zip(more, chosen, strict=True) if narrow), (
        "a higher rate keeps what a lower did"
    )
    assert 150 < sum(_sampled((), 0.25) for _ in range(1000)) < 350


def write(sink, *notes: Note) -> None:
    for table in tables(notes, Personal()):
        sink.write(notes[0].model, table)


def visible(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))


def test_files_are_seen_when_they_are_whole_and_rows_can_be_read_before(tmp_path):
    sink = ParquetSink(tmp_path, roll_s=3600)
    write(sink, note(answered(3), headers=[("x-request-id", "r1")]))
    sink.roll()
    assert visible(tmp_path) == []
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 3
    sink.roll(everything=True)
    (file,) = visible(tmp_path)
    assert file.parent == tmp_path / "m" / f"date={DAY}" and pq.read_table(file, partitioning=None).num_rows == 3
    assert list(tmp_path.rglob(f"*{JOURNAL}")) == []
    eager = ParquetSink(tmp_path, roll_s=0)
    write(eager, note(answered(3), headers=[("x-request-id", "r1")]))
    eager.roll()
    assert len(visible(tmp_path)) == 2
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 3, "a row that was written twice is read once"


def test_a_day_ends_at_midnight_utc(tmp_path):
    sink = ParquetSink(tmp_path, roll_s=3600)
    midnight = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
    write(sink, note(answered(1), at=midnight - 0.001), note(answered(1), at=midnight))
    sink.roll(everything=True)
    assert [path.parent.name for path in visible(tmp_path)] == ["date=2026-02-28", "date=2026-03-01"]
    day = Interval.parse("2026-03-01", "UTC")
    assert predictions.read(tmp_path, "m", day)["time"].to_pylist() == [day.start]


def test_what_a_killed_server_left_is_closed_by_the_next_and_not_what_a_running_one_holds(tmp_path):
    running, killed = ParquetSink(tmp_path, 3600), ParquetSink(tmp_path, 3600)
    write(running, note(answered(1)))
    write(killed, note(answered(2)), note(answered(3)))
    (journal,) = killed._open.values()
    journal.file.write(b"\xff\xff\xff\xff\x10\x00\x00\x00torn")  # A batch that was not finished.
    journal.file.close()
    assert recover(tmp_path) == 1
    (file,) = visible(tmp_path)
    assert pq.read_table(file, partitioning=None).num_rows == 5
    assert recover(tmp_path) == 0 and len(list(tmp_path.rglob(f"*{JOURNAL}"))) == 1
    running.roll(everything=True)


def test_a_file_that_cannot_be_closed_is_closed_later(tmp_path, monkeypatch):
    sink = ParquetSink(tmp_path, 0)
    write(sink, note(answered(3)))

    def full(*unused, **given):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="no room"):
            sink.roll()
    sink.roll()
    assert visible(tmp_path) == [] and predictions.read(tmp_path, "m", AROUND).num_rows == 3
    monkeypatch.setattr(parquet_sink, "AGAIN_S", 0.0)
    sink._again_at = 0.0
    sink.roll()
    assert len(visible(tmp_path)) == 1 and predictions.read(tmp_path, "m", AROUND).num_rows == 3


def test_two_signatures_of_one_request_are_both_read_and_each_once(tmp_path):
    sink, other = ParquetSink(tmp_path, 3600), answered(2)
    other.signature = Signature("other", "", SIGNATURE.inputs, SIGNATURE.outputs, SIGNATURE.run)
    for _ in range(2):
        write(sink, note(answered(2), other, headers=[("x-request-id", "r1")]))
    rows = predictions.read(tmp_path, "m", AROUND).to_pylist()
    assert [(row["signature"], row["row"]) for row in rows] == [
        ("other", 0),
        ("other", 1),
        ("serving_default", 0),
        ("serving_default", 1),
    ]


def test_a_model_whatever_it_is_called_lies_below_the_folder(tmp_path):
    for name in ("..", "../x", "a/b", ".hidden", "ü"):
        assert folder_of(tmp_path, name).parent == tmp_path
        sink = ParquetSink(tmp_path, 3600)
        write(sink, note(answered(1), model=name))
        sink.roll(everything=True)
        assert predictions.read(tmp_path, name, AROUND).num_rows == 1
    assert len({folder_of(tmp_path, name) for name in ("..", "%2E.", ".hidden", "%2Ehidden")}) == 4


def test_versions_with_other_features_and_hashes_are_read_together(tmp_path):
    sink = ParquetSink(tmp_path, 3600)
    write(sink, note(answered(1, version=1)))
    hashed = Personal(frozenset({"delay"}), frozenset({"origin"}), b"k")
    for table in tables([note(answered(1, version=2))], hashed):
        sink.write("m", table)
    rows = predictions.read(tmp_path, "m", AROUND).sort_by("version").to_pylist()
    assert [row["version"] for row in rows] == [1, 2]
    assert rows[0]["input_delay"] == "1.5" and len(rows[1]["input_delay"]) == 64 and rows[1]["input_origin"] is None


def test_an_interval_without_answers_is_an_empty_table_and_a_broken_file_is_named(tmp_path):
    assert predictions.read(tmp_path, "m", AROUND).num_rows == 0
    broken = tmp_path / "m" / f"date={DAY}" / "x.parquet"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"PAR1")
    with pytest.raises(TerminalError, match=r"x\.parquet of the prediction log cannot be read"):
        predictions.read(tmp_path, "m", AROUND)


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


@pytest.fixture
def served(tmp_path):
    """A registry with the model `m`, and a way to say what is logged of it."""
    registry = Registry()
    registry.models["m"] = Model(ModelSettings("m", tmp_path))

    def set_logging(logging_: Logging | None):
        registry.models["m"].settings = ModelSettings("m", tmp_path, logging=logging_)

    return SimpleNamespace(registry=registry, set=set_logging, root=tmp_path)


def ask(log: PredictionLog, model: str = "m", code: str = "OK", **given) -> None:
    carrier = {"headers": given.pop("headers", [])}
    log.note(model, None, "Predict", code, 0.001, protocol="REST", carrier=carrier, calls=[answered(1)])


def logged(root: Path) -> int:
    now = datetime.now(UTC)
    return predictions.read(root, "m", Interval(now - timedelta(minutes=5), now + timedelta(minutes=5))).num_rows


def test_a_models_own_config_wins_over_the_flags_and_a_change_holds_at_once(served):
    async def scenario():
        log = PredictionLog(LogSettings(Destination("parquet", str(served.root / "flags"))), served.registry)
        ask(log)
        served.set(Logging(Destination("parquet", str(served.root / "own")), 1.0))
        ask(log)
        served.set(Logging(None, 1.0))
        ask(log)
        served.set(Logging(None, 0.0))
        ask(log)
        served.set(None)
        ask(log, code="CANCELLED")
        ask(log, model="nobody")
        await asyncio.to_thread(log.close)

    asyncio.run(scenario())
    assert logged(served.root / "flags") == 2 and logged(served.root / "own") == 1


def test_without_a_setting_nothing_is_logged_and_no_thread_is_started(served):
    log = PredictionLog(LogSettings(), served.registry)
    ask(log)
    assert log._thread is None and not log._queue
    log.close()


def test_a_full_queue_drops_counts_and_says_so_once(served, monkeypatch, caplog):
    monkeypatch.setattr(module, "MAX_NOTES", 3)
    monkeypatch.setattr(PredictionLog, "_start", lambda self: None)  # Nobody writes.
    monkeypatch.setattr(DROPPED, "_sums", {})
    log = PredictionLog(LogSettings(Destination("parquet", str(served.root))), served.registry)
    for _ in range(10):
        ask(log)
    assert len(log._queue) == 3 and DROPPED._sums == {("m", "queue_full"): 7}
    assert [r.getMessage() for r in caplog.records if "faster than" in r.getMessage()] == [
        "1 requests are not in the prediction log: they come faster than it is written"
    ]


def test_large_requests_fill_the_queue_by_their_bytes(served, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 3 * module._NOTE_BYTES)
    monkeypatch.setattr(PredictionLog, "_start", lambda self: None)
    log = PredictionLog(LogSettings(Destination("parquet", str(served.root))), served.registry)
    for _ in range(10):
        ask(log)
    assert len(log._queue) == 2


@pytest.mark.parametrize("what", ["origin", "header"])
def test_strings_and_headers_fill_the_queue_by_their_bytes(served, monkeypatch, what):
    monkeypatch.setattr(module, "MAX_BYTES", 3 * module._NOTE_BYTES)
    monkeypatch.setattr(PredictionLog, "_start", lambda self: None)
    log, long, call = (
        PredictionLog(LogSettings(Destination("parquet", "here")), served.registry),
        b"x" * 3000,
        answered(1),
    )
    call.inputs = [texts(long if what == "origin" else b""), call.inputs[1]]
    headers = [(b"x-other", long)] if what == "header" else []
    log.note("m", None, "Predict", "OK", 0.001, protocol="REST", carrier={"headers": headers}, calls=[call])
    assert not log._queue


def test_a_disk_that_fails_costs_rows_that_are_counted_and_the_thread_goes_on(served, monkeypatch, caplog):
    monkeypatch.setattr(DROPPED, "_sums", {})
    (served.root / "file").write_text("in the way")
    caplog.set_level(logging.WARNING)

    async def scenario():
        log = PredictionLog(LogSettings(Destination("parquet", str(served.root / "file" / "log"))), served.registry)
        ask(log)
        deadline = time.monotonic() + 30
        while not DROPPED._sums:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        served.set(Logging(Destination("parquet", str(served.root / "good")), 1.0))
        ask(log)
        await asyncio.to_thread(log.close)

    asyncio.run(scenario())
    assert DROPPED._sums == {("m", "not_written"): 1} and "NotADirectoryError" in caplog.text
    assert logged(served.root / "good") == 1


class Sink:
    """Takes tables, or all but some rows of each."""

    def __init__(self, refused: int = 0) -> None:
        self.tables: list[pa.Table] = []
        self.refused = refused

    def write(self, model, table):
        self.tables.append(table)
        if self.refused:
            raise NotTaken(self.refused, "too large")

    def roll(self, everything=False):
        pass


def written(served, monkeypatch, sink: Sink, *notes: Note) -> None:
    monkeypatch.setattr(DROPPED, "_sums", {})
    monkeypatch.setattr(module.ROWS, "_sums", {})

    async def scenario():
        log = PredictionLog(LogSettings(), served.registry)
        log._loop, destination = asyncio.get_running_loop(), Destination("parquet", "nowhere")
        log._sinks[destination] = sink
        log._write({(destination, "m"): list(notes)})
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_note_of_which_no_table_can_be_made_costs_its_group_alone(served, monkeypatch):
    sink, torn = Sink(), answered(2)
    torn.inputs = torn.inputs[:1]  # An input is missing.
    torn.signature = Signature("torn", "", SIGNATURE.inputs, SIGNATURE.outputs, lambda *x: [])
    written(served, monkeypatch, sink, note(torn), note(answered(2)))
    assert [table["signature"][0].as_py() for table in sink.tables] == ["serving_default"]
    assert (DROPPED._sums, module.ROWS._sums) == ({("m", "not_written"): 1}, {("m",): 2})


def test_rows_that_were_taken_are_counted_also_where_others_were_not(served, monkeypatch):
    written(served, monkeypatch, Sink(refused=1), note(answered(3)))
    assert (DROPPED._sums, module.ROWS._sums) == ({("m", "not_written"): 1}, {("m",): 2})


CONFIG = """model_config_list { config { name: "m" base_path: "/m" logging_config { %s } } }"""


def test_the_config_file_says_it_as_tensorflow_serving_does():
    def told(text: str) -> Logging | None:
        (model,) = config.models_from_text(CONFIG % text, "here")
        return model.logging

    place = 'log_collector_config { type: "%s" filename_prefix: "%s" } sampling_config { sampling_rate: 0.5 }'
    assert told(place % ("parquet", "/logs")) == Logging(Destination("parquet", "/logs"), 0.5)
    assert told(place % ("kafka", "answers")) == Logging(Destination("kafka", "answers"), 0.5)
    assert told(place % ("kafka", "h:9092/answers")) == Logging(Destination("kafka", "answers", "h:9092"), 0.5)
    assert told("sampling_config { sampling_rate: 1 }") == Logging(None, 1.0)
    assert told('log_collector_config { type: "parquet" filename_prefix: "/logs" }').sampling_rate == 0
    for wrong in (place % ("tape", "/logs"), place % ("kafka", ""), "sampling_config { sampling_rate: 1.5 }"):
        with pytest.raises(TerminalError, match="logging_config of m is not usable"):
            told(wrong)


def test_the_flags_say_what_holds_for_models_without_a_config(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path))

    def told(*flags: str) -> LogSettings:
        return config.settings_from_flags(["--model_base_path=/m", *flags]).prediction_log

    assert told() == LogSettings()
    assert told("--prediction_log=/logs").destination == Destination("parquet", "/logs")
    kafka = told("--prediction_log=kafka://a:1,b:2/answers", "--prediction_log_fallback=/logs")
    assert kafka.destination == Destination("kafka", "answers", "a:1,b:2") and kafka.fallback == Path("/logs")
    hashed = told("--prediction_log_hash_columns=tailnum, caller")
    assert hashed.hash_columns == {"tailnum", "caller"} and hashed.key_file == tmp_path / "run" / "prediction-log.key"
    with pytest.raises(TerminalError, match="contradict each other"):
        told("--prediction_log_hash_columns=a", "--prediction_log_omit_columns=a")
    with pytest.raises(TerminalError, match="contradict each other"):
        told("--prediction_log_omit_columns=request_id")
    for wrong in ("--prediction_log=kafka://topic", "--prediction_log=s3://x/y", "--prediction_log_sampling_rate=2"):
        with pytest.raises(SystemExit):
            told(wrong)


@pytest.mark.slow
def test_a_server_logs_both_protocols_and_closes_its_files_when_it_stops(tmp_path):
    (tmp_path / "affine").mkdir()
    models.save_affine(tmp_path / "affine" / "1", 2.0)
    root = tmp_path / "log"
    flags = (f"--model_name=m --model_base_path={tmp_path}/affine --prediction_log={root}").split()
    with models.running(tmp_path, *flags) as server:
        assert server.ask("POST", "/v1/models/m:predict", {"instances": [1.0, 2.0]})[0] == 200
        assert server.ask("POST", "/v1/models/m:predict", {"instances": ["no number"]})[0] == 400
        assert server.ask("POST", "/v1/models/unknown:predict", {"instances": [1.0]})[0] == 404
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "m"
            request.inputs["x"].CopyFrom(tf.make_tensor_proto([5.0]))
            said = (("x-caller-id", "me"), ("x-request-id", "r1"), ("x-airtight-side", "stable"))
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, metadata=said)
        deadline = time.monotonic() + 30
        while b'prediction_log_rows{model_name="m"} 4' not in server.raw("GET", "/monitoring/prometheus/metrics")[1]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert visible(root) == [] and logged(root) == 4
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert len(visible(root)) == 2 and list(root.rglob(f"*{JOURNAL}")) == []
    now = datetime.now(UTC)
    rows = predictions.read(root, "m", Interval(now - timedelta(minutes=5), now)).to_pylist()
    assert [(row["protocol"], row["code"], row["row"], row["rows"]) for row in rows] == [
        ("REST", "OK", 0, 2),
        ("REST", "OK", 1, 2),
        ("REST", "INVALID_ARGUMENT", 0, 0),
        ("gRPC", "OK", 0, 1),
    ]
    asked = rows[-1]
    assert (asked["caller"], asked["request_id"], asked["side"]) == ("me", "r1", "stable")
    assert (asked["input_x"], asked["output_y"], asked["version"]) == (5.0, 10.0, 1)
    assert asked["latency_ms"] > 0 and asked["time"] > now - timedelta(minutes=5)


def test_the_metrics_tell_rows_and_losses():
    exposed = metrics.exposition().decode()
    assert ":airtight:serving:prediction_log_rows" in exposed and ":airtight:serving:prediction_log_dropped" in exposed


def test_the_tables_columns_are_those_of_the_reader():
    ((table,),) = [list(tables([note(answered())], Personal()))]
    kinds = {field.name: field.type for field in table.schema}
    assert all(kinds[field.name] == field.type for field in predictions._NOTHING)
    assert kinds["input_delay"] == pa.float32() and kinds["input_origin"] == pa.string()
