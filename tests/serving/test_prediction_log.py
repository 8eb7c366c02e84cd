"""The prediction log: every answer is in it, whoever asked and however the server ended, at no request's cost."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import grpc
import pyarrow as pa
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from airtight.errors import TerminalError
from airtight.interval import Interval
from airtight.predictions import CALLER, JOURNAL, REQUEST
from components.data import predictions
from serving import config, metrics
from serving.config import ModelSettings
from serving.errors import Code, ServingError
from serving.prediction_log import log as module
from serving.prediction_log import writer
from serving.prediction_log.journal_rows import batches
from serving.prediction_log.journals import Journals
from serving.prediction_log.log import PredictionLog, _sampled
from serving.prediction_log.notes import LONGEST_ID, Note
from serving.prediction_log.settings import Destination, Logging, LogSettings
from serving.prediction_log.writer import DROPPED
from serving.signature import Signature
from serving.versions import Model, Registry
from tests.serving import models
from tests.serving.notes import SIGNATURE, answered, note, texts, visible


def test_sampling_by_id_is_the_same_on_every_server_and_has_the_rate():
    chosen = [_sampled({REQUEST: f"r{i}".encode()}, 0.25) for i in range(4000)]
    again = [_sampled({REQUEST: f"r{i}"}, 0.25) for i in range(4000)]
    assert chosen == again and 900 < sum(chosen) < 1100
    more = [_sampled({REQUEST: f"r{i}"}, 0.5) for i in range(4000)]
    assert all(wide for wide, narrow in zip(more, chosen, strict=True) if narrow), (
        "a higher rate keeps what a lower did"
    )
    assert 150 < sum(_sampled({}, 0.25) for _ in range(1000)) < 350


@pytest.fixture
def served(tmp_path):
    """A registry with the model `m`, and a way to say what is logged of it."""
    registry = Registry()
    registry.models["m"] = Model(ModelSettings("m", tmp_path))

    def set_logging(logging_: Logging | None):
        registry.models["m"].settings = ModelSettings("m", tmp_path, logging=logging_)

    return SimpleNamespace(registry=registry, set=set_logging, root=tmp_path)


def ask(log: PredictionLog, model: str = "m", code: str = "OK", **given) -> None:
    scope = {"headers": given.pop("headers", [])}
    log.note(model, None, "Predict", code, 0.001, protocol="REST", header_source=scope, calls=[answered(1)])


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


@pytest.mark.parametrize("rows", [1, 2])
def test_strings_fill_the_queue_by_their_bytes(served, monkeypatch, rows):
    monkeypatch.setattr(module, "MAX_BYTES", 3 * module._NOTE_BYTES)
    monkeypatch.setattr(PredictionLog, "_start", lambda self: None)
    log, call = PredictionLog(LogSettings(Destination("parquet", "here")), served.registry), answered(rows)
    call.inputs = [texts(*[b"x" * 3000] * rows), call.inputs[1]]
    log.note("m", None, "Predict", "OK", 0.001, protocol="REST", header_source={"headers": []}, calls=[call])
    assert not log._queue


def test_of_headers_only_what_is_logged_is_kept_and_not_more_of_it_than_is_logged(served, monkeypatch):
    monkeypatch.setattr(PredictionLog, "_start", lambda self: None)
    log = PredictionLog(LogSettings(Destination("parquet", "here")), served.registry)
    ask(log, headers=[(b"x-other", b"x" * 3000), (b"x-caller-id", b"x" * 3000)])
    ((kept, _),) = log._queue
    assert list(kept.headers) == [CALLER] and LONGEST_ID <= len(kept.headers[CALLER]) <= module._LONGEST_HEADER


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


class Refusing:
    """Journals that take no batches of some signatures."""

    def __init__(self, refused: str = "") -> None:
        self.batches: list[pa.RecordBatch] = []
        self.refused = refused

    def write(self, model, day, batch):
        if batch["signature"][0].as_py() == self.refused:
            raise OSError("no room")
        self.batches.append(batch)
        return self

    def sync(self, journal):
        raise AssertionError("the log is not durable")


def written(served, monkeypatch, journals: Refusing, *notes: Note) -> None:
    monkeypatch.setattr(DROPPED, "_sums", {})
    monkeypatch.setattr(writer.ROWS, "_sums", {})

    async def scenario():
        log = PredictionLog(LogSettings(), served.registry)
        log._loop, destination = asyncio.get_running_loop(), Destination("parquet", "nowhere")
        log._writer._sinks[destination] = writer._Sink(journals, None, counts=True)
        log._write({(destination, "m"): list(notes)})
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_note_of_which_no_table_can_be_made_costs_its_group_alone(served, monkeypatch):
    journals, torn = Refusing(), answered(2)
    torn.inputs = torn.inputs[:1]  # An input is missing.
    torn.signature = Signature("torn", "", SIGNATURE.inputs, SIGNATURE.outputs, lambda *x: [])
    written(served, monkeypatch, journals, note(torn), note(answered(2)))
    assert [batch["signature"][0].as_py() for batch in journals.batches] == ["serving_default"]
    assert (DROPPED._sums, writer.ROWS._sums) == ({("m", "not_written"): 2}, {("m",): 2})


def test_rows_that_were_written_are_counted_also_where_others_were_not(served, monkeypatch):
    other = answered(3)
    other.signature = Signature("other", "", SIGNATURE.inputs, SIGNATURE.outputs, lambda *x: [])
    written(served, monkeypatch, Refusing(refused="other"), note(other), note(answered(2)))
    assert (DROPPED._sums, writer.ROWS._sums) == ({("m", "not_written"): 3}, {("m",): 2})


def test_what_kafka_does_not_take_is_bounded_and_the_rest_dropped_and_counted(served, monkeypatch):
    monkeypatch.setattr(DROPPED, "_sums", {})
    monkeypatch.setattr(writer, "ShipperProcess", lambda: SimpleNamespace(look=lambda job: None))
    spool = served.root / "spool"

    async def scenario():
        log = PredictionLog(LogSettings(spool=spool, spool_bytes=1), served.registry)
        log._loop, destination = asyncio.get_running_loop(), Destination("kafka", "answers", "nobody:1")
        for _ in range(3):
            log._write({(destination, "m"): [note(answered(2))]})
        await asyncio.sleep(0)

    asyncio.run(scenario())
    (journal,) = spool.rglob(f"*{JOURNAL}")
    assert sum(len(batch) for batch in batches(journal)) == 2 and DROPPED._sums == {("m", "spool_full"): 2}


def keep(log: PredictionLog):
    scope = {"headers": []}
    return log.keep("m", None, "Predict", "OK", 0.001, protocol="REST", header_source=scope, calls=[answered(1)])


def test_answers_that_come_while_the_disk_syncs_share_the_next_sync(served, monkeypatch):
    syncing, done, syncs = threading.Event(), threading.Event(), []

    def sync(self, journal):
        syncs.append(journal)
        syncing.set()
        assert done.wait(30)

    monkeypatch.setattr(Journals, "sync", sync)

    async def scenario():
        log = PredictionLog(LogSettings(Destination("parquet", str(served.root)), durable=True), served.registry)
        first = asyncio.create_task(keep(log))
        await asyncio.to_thread(syncing.wait, 30)
        others = [asyncio.create_task(keep(log)) for _ in range(10)]
        await asyncio.sleep(0)
        assert not first.done() and len(log._queue) == 10
        done.set()
        await asyncio.gather(first, *others)
        await asyncio.to_thread(log.close)

    asyncio.run(scenario())
    assert len(syncs) == 2 and logged(served.root) == 11


@pytest.mark.parametrize("cause", ["full", "closed", "sync"])
def test_a_durable_log_refuses_answers_that_it_cannot_keep(served, monkeypatch, cause):
    def sync(self, journal):
        raise OSError("input/output error")

    if cause == "full":
        monkeypatch.setattr(module, "MAX_NOTES", 0)
    if cause == "sync":
        monkeypatch.setattr(Journals, "sync", sync)

    async def scenario():
        log = PredictionLog(LogSettings(Destination("parquet", str(served.root)), durable=True), served.registry)
        if cause == "closed":
            log.close()
        with pytest.raises(ServingError, match="cannot be written to the prediction log") as raised:
            await keep(log)
        assert raised.value.code is Code.UNAVAILABLE
        ask(log, code="INVALID_ARGUMENT")  # Nobody waits for a refusal's row.
        await asyncio.to_thread(log.close)

    asyncio.run(scenario())


CONFIG = """model_config_list { config { name: "m" base_path: "/m" logging_config { %s } } }"""


def test_the_config_file_says_it_as_tensorflow_serving_does():
    def read(text: str) -> Logging | None:
        (model,) = config.models_from_text(CONFIG % text, "here")
        return model.logging

    place = 'log_collector_config { type: "%s" filename_prefix: "%s" } sampling_config { sampling_rate: 0.5 }'
    assert read(place % ("parquet", "/logs")) == Logging(Destination("parquet", "/logs"), 0.5)
    assert read(place % ("kafka", "answers")) == Logging(Destination("kafka", "answers"), 0.5)
    assert read(place % ("kafka", "h:9092/answers")) == Logging(Destination("kafka", "answers", "h:9092"), 0.5)
    assert read("sampling_config { sampling_rate: 1 }") == Logging(None, 1.0)
    assert read('log_collector_config { type: "parquet" filename_prefix: "/logs" }').sampling_rate == 0
    for wrong in (place % ("tape", "/logs"), place % ("kafka", ""), "sampling_config { sampling_rate: 1.5 }"):
        with pytest.raises(TerminalError, match="logging_config of m is not usable"):
            read(wrong)


def test_the_flags_say_what_holds_for_models_without_a_config(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRTIGHT_HOME", str(tmp_path))

    def read(*flags: str) -> LogSettings:
        return config.settings_from_flags(["--model_base_path=/m", *flags]).prediction_log

    assert read() == LogSettings()
    assert read("--prediction_log=/logs").destination == Destination("parquet", "/logs")
    assert read("--prediction_log=/logs", "--prediction_log_durable").durable
    kafka = read("--prediction_log=kafka://a:1,b:2/answers", "--prediction_log_fallback=/logs")
    assert kafka.destination == Destination("kafka", "answers", "a:1,b:2") and kafka.fallback == Path("/logs")
    hashed = read("--prediction_log_hash_columns=tailnum, caller")
    assert hashed.hash_columns == {"tailnum", "caller"} and hashed.key_file == tmp_path / "run" / "prediction-log.key"
    with pytest.raises(TerminalError, match="contradict each other"):
        read("--prediction_log_hash_columns=a", "--prediction_log_omit_columns=a")
    with pytest.raises(TerminalError, match="contradict each other"):
        read("--prediction_log_omit_columns=request_id")
    for wrong in ("--prediction_log=kafka://topic", "--prediction_log=s3://x/y", "--prediction_log_sampling_rate=2"):
        with pytest.raises(SystemExit):
            read(wrong)


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
            metadata = (("x-caller-id", "me"), ("x-request-id", "r1"), ("x-airtight-side", "stable"))
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, metadata=metadata)
        deadline = time.monotonic() + 30
        while (
            b'prediction_log_rows_total{model_name="m"} 4' not in server.raw("GET", "/monitoring/prometheus/metrics")[1]
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert visible(root) == [] and logged(root) == 4
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    # One of refused requests, one of requests of a single row, one of the others.
    assert len(visible(root)) == 3 and list(root.rglob(f"*{JOURNAL}")) == []
    now = datetime.now(UTC)
    rows = predictions.read(root, "m", Interval(now - timedelta(minutes=5), now)).to_pylist()
    assert [(row["protocol"], row["code"], row["row"], row["rows"]) for row in rows] == [
        ("REST", "OK", 0, 2),
        ("REST", "OK", 1, 2),
        ("REST", "INVALID_ARGUMENT", 0, 0),
        ("gRPC", "OK", 0, 1),
    ]
    row = rows[-1]
    assert (row["caller"], row["request_id"], row["side"]) == ("me", "r1", "stable")
    assert (row["input_x"], row["output_y"], row["version"]) == (5.0, 10.0, 1)
    assert row["latency_ms"] > 0 and row["time"] > now - timedelta(minutes=5)


def test_the_metrics_tell_rows_and_losses():
    exposed = metrics.exposition().decode()
    assert {f"# TYPE airtight_serving_prediction_log_{name}_total counter" for name in ("rows", "dropped")} <= {
        *exposed.splitlines()
    }
