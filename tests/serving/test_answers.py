"""What becomes of an answer that is late, refused or broken: status, and the same word in the metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    inference_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving import examples, grpc_api, inference, metrics, rest
from serving.batching_parameters import BatchingParameters
from serving.bodies import Bodies
from serving.config import ModelSettings, Settings
from serving.errors import Code, ServingError, invalid
from serving.inference import Runner
from serving.listening import bound, grpc_server, start_grpc, start_http
from serving.loader import load
from serving.malformed import Registrar
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.settings import LogSettings
from serving.signature import Signature, TensorSpec
from serving.versions import Model, Registry, State, Version


@pytest.fixture
def counted(monkeypatch):
    """The statuses counted, in order."""
    statuses: list[str] = []
    monkeypatch.setattr(metrics.REQUESTS, "add", lambda name, status: statuses.append(status))
    return statuses


def call_rest(monkeypatch, answer, timeout_s: float = 30.0) -> int:
    """The HTTP status of a prediction that `answer` gives."""
    registry = Registry()
    log = PredictionLog(LogSettings(), registry)
    api = rest.RestApi(registry, Runner(1), Settings(rest_api_timeout_s=timeout_s), log)
    monkeypatch.setattr(api, "_answer", answer)
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"{}"}

    async def send(message):
        sent.append(message)

    asyncio.run(api({"raw_path": b"/v1/models/m:predict", "method": "POST", "headers": []}, receive, send))
    return sent[0]["status"]


async def _fine(*unused):
    return b"{}"


async def _refused(*unused):
    raise invalid("no")


async def _slow(*unused):
    await asyncio.sleep(5)


async def _broken(*unused):
    raise ValueError("a bug")


def test_a_rest_request_has_its_time_and_its_status_is_counted(monkeypatch, counted):
    assert call_rest(monkeypatch, _fine) == 200
    assert call_rest(monkeypatch, _refused) == 400
    assert call_rest(monkeypatch, _slow, 0.05) == 504
    assert call_rest(monkeypatch, _broken) == 500
    assert counted == ["OK", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "UNKNOWN"]


def test_a_call_that_breaks_or_is_given_up_is_not_counted_as_answered(counted):
    class Service:
        registry = Registry()
        log = PredictionLog(LogSettings(), registry)

        def __init__(self, behave):
            self.behave = behave

        @grpc_api._answered
        async def Predict(self, request, calls):
            await self.behave()

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(Service(_broken).Predict(predict_pb2.PredictRequest(), None))
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(Service(_slow).Predict(predict_pb2.PredictRequest(), None), 0.05))
    asyncio.run(Service(_fine).Predict(predict_pb2.PredictRequest(), None))
    assert counted == ["UNKNOWN", "CANCELLED", "OK"]


class Single(tf.Module):
    """Answers without dimensions."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "x")])
    def serve(self, x):
        return {"number": tf.size(x), "word": tf.strings.reduce_join(x)}


def test_a_single_string_is_answered_by_both_protocols_and_its_bytes_are_counted(tmp_path, monkeypatch):
    module = Single()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.serve)
    loaded = load(tmp_path / "1", tmp_path, 1)
    registry, runner, sizes = Registry(), Runner(1), []
    convert = runner.convert
    monkeypatch.setattr(runner, "convert", lambda model, size, *args: sizes.append(size) or convert(model, size, *args))
    log = PredictionLog(LogSettings(), registry)
    model = registry.models["m"] = Model(ModelSettings("m", tmp_path))
    model.versions[1] = Version("m", 1, None, State.AVAILABLE, loaded=loaded)
    model.changed()
    sent = []

    async def receive():
        return {"type": "http.request", "body": b'{"inputs": ["a", "b"]}'}

    async def send(message):
        sent.append(message)

    scope = {"raw_path": b"/v1/models/m:predict", "method": "POST", "headers": []}
    asyncio.run(rest.RestApi(registry, runner, Settings(), log)(scope, receive, send))
    assert (sent[0]["status"], json.loads(sent[1]["body"])) == (200, {"outputs": {"number": 2, "word": "ab"}})
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(["a", "b"]))
    answer = asyncio.run(grpc_api.PredictionService(registry, runner, log).Predict(request, None))
    assert answer.outputs["word"].string_val[0] == b"ab" and not answer.outputs["word"].tensor_shape.dim
    assert sizes.count(4 + 8 + 2) == 2, "the number, the string's place and the string, of each answer"
    loaded.close()


def test_tasks_of_one_request_are_answered_by_one_version_whatever_is_swapped_between_them():
    registry = Registry()
    model = registry.models["m"] = Model(ModelSettings("m", Path("m")))

    def version(number: int) -> Version:
        def run(serialized):
            swap(2)
            return [np.full(len(serialized), number, np.float32)]

        return Version("m", number, None, State.AVAILABLE, loaded=Loaded(run))

    def swap(number: int) -> None:
        for old in model.versions.values():
            old.state = State.UNLOADING
        model.versions[number] = version(number)
        model.changed()

    swap(1)
    request = inference_pb2.MultiInferenceRequest()
    request.input.example_list.examples.add()
    for name in "ab":
        task = request.tasks.add(method_name="tensorflow/serving/regress")
        task.model_spec.name, task.model_spec.signature_name = "m", name
    log = PredictionLog(LogSettings(), registry)
    answer = asyncio.run(grpc_api.PredictionService(registry, Runner(1), log).MultiInference(request, None))
    regressions = [(one.model_spec.version.value, one.regression_result.regressions[0].value) for one in answer.results]
    assert regressions == [(1, 1.0), (1, 1.0)]
    assert model.versions[1].in_flight == 0


class Loaded:
    """A model with two signatures, `a` and `b`, from serialized tf.Examples to a number each."""

    def __init__(self, run) -> None:
        given, answered = (
            TensorSpec(name, name, dtype, np.dtype(dtype.as_numpy_dtype), (None,))
            for name, dtype in (("inputs", tf.string), ("outputs", tf.float32))
        )
        self.signatures = {n: Signature(n, "tensorflow/serving/regress", (given,), (answered,), run) for n in "ab"}

    def signature(self, name: str) -> Signature:
        return self.signatures[name]


def test_a_call_of_half_a_millisecond_runs_on_the_event_loop_by_rest_and_beside_it_by_grpc():
    registry, threads = Registry(), []

    def run(serialized):
        threads.append(threading.get_ident())
        return [np.zeros(len(serialized), np.float32)]

    loaded = Loaded(run)
    model = registry.models["m"] = Model(ModelSettings("m", Path("m")))
    model.versions[1] = Version("m", 1, None, State.AVAILABLE, loaded=loaded)
    model.changed()
    log = PredictionLog(LogSettings(), registry)

    async def receive():
        return {"type": "http.request", "body": b'{"signature_name": "a", "examples": [{"x": 1.0}]}'}

    async def send(message):
        assert message.get("status", 200) == 200

    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "a"
    request.input.example_list.examples.add()
    for batching in (None, BatchingParameters()):
        # Anew for each, because on a busy machine a call takes longer.
        loaded.signature("a").observed.costs.update((size, 0.0005) for size in range(13))
        runner = Runner(1, batching)
        scope = {"raw_path": b"/v1/models/m:regress", "method": "POST", "headers": []}
        asyncio.run(rest.RestApi(registry, runner, Settings(), log)(scope, receive, send))
        asyncio.run(grpc_api.PredictionService(registry, runner, log).Regress(request, None))
    assert [one == threading.get_ident() for one in threads] == [True, False] * 2


def test_large_examples_and_their_answers_are_converted_beside_the_event_loop(monkeypatch):
    registry, runner, threads = Registry(), Runner(1), []
    log = PredictionLog(LogSettings(), registry)
    model = registry.models["m"] = Model(ModelSettings("m", Path("m")))
    loaded = Loaded(lambda serialized: [np.zeros(len(serialized), np.float32)])
    model.versions[1] = Version("m", 1, None, State.AVAILABLE, loaded=loaded)
    model.changed()
    monkeypatch.setattr(inference, "LARGE_BYTES", 0)
    for name in ("arrays_of", "result_json", "result"):
        function = getattr(examples, name)
        watching = lambda *args, function=function, **named: (  # noqa: E731
            threads.append(threading.get_ident()) or function(*args, **named)
        )
        monkeypatch.setattr(examples, name, watching)
    sent = []

    async def receive():
        return {"type": "http.request", "body": b'{"signature_name": "a", "examples": [{"x": 1.0}]}'}

    async def send(message):
        sent.append(message)

    scope = {"raw_path": b"/v1/models/m:regress", "method": "POST", "headers": []}
    asyncio.run(rest.RestApi(registry, runner, Settings(), log)(scope, receive, send))
    assert json.loads(sent[1]["body"]) == {"results": [0.0]}
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "a"
    request.input.example_list.examples.add()
    asyncio.run(grpc_api.PredictionService(registry, runner, log).Regress(request, None))
    assert len(threads) == 4 and threading.get_ident() not in threads


def test_classes_that_are_no_words_are_refused_as_tensorflow_serving_does():
    with pytest.raises(ServingError, match="DT_STRING"):
        examples._classification({"classes": np.zeros((1, 2), np.int64)}, 1)
    with pytest.raises(ServingError, match="Expected scores Tensor of DT_FLOAT"):
        examples._classification({"scores": np.full((1, 2), b"1.5", object)}, 1)


def test_a_fault_of_the_server_is_answered_as_json(monkeypatch):
    registry = Registry()
    api = rest.RestApi(registry, Runner(1), Settings(), PredictionLog(LogSettings(), registry))
    sent = []

    async def broken(*unused):
        raise ZeroDivisionError("secret")

    async def receive():
        return {"type": "http.request", "body": b"{}"}

    async def send(message):
        sent.append(message)

    monkeypatch.setattr(api, "_answer", broken)
    asyncio.run(api({"raw_path": b"/v1/models/m:predict", "method": "POST", "headers": []}, receive, send))
    assert (sent[0]["status"], json.loads(sent[1]["body"])) == (500, {"error": "Internal error: ZeroDivisionError"})


def test_a_request_whose_client_has_gone_is_not_started_and_not_counted_as_answered(counted):
    started, let_go = [], threading.Event()

    def run(serialized):
        started.append(1)
        assert let_go.wait(60)
        return [np.zeros(len(serialized), np.float32)]

    body = b'{"signature_name": "a", "examples": [{"x": 1.0}]}'
    request = b"POST /v1/models/m:regress HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def scenario() -> bytes:
        registry = Registry()
        model = registry.models["m"] = Model(ModelSettings("m", Path("m")))
        model.versions[1] = Version("m", 1, None, State.AVAILABLE, loaded=Loaded(run))
        model.changed()
        settings = Settings(rest_api_port=0)
        listener = bound(settings)
        api = rest.RestApi(registry, Runner(1), settings, PredictionLog(LogSettings(), registry))
        http, serving = await start_http(api, settings, listener)
        streams = []
        for _ in range(3):
            streams.append(await asyncio.open_connection(*listener.getsockname()))
            streams[-1][1].write(request)
            while model.versions[1].in_flight < len(streams):
                await asyncio.sleep(0.01)
        streams[1][1].transport.abort()
        while counted != ["CANCELLED"]:
            await asyncio.sleep(0.01)
        let_go.set()
        answers = [await streams[index][0].readuntil(b"\r\n") for index in (0, 2)]
        for _, writer in (streams[0], streams[2]):
            writer.close()
        http.should_exit = True
        await serving
        return b"".join(answers)

    assert asyncio.run(asyncio.wait_for(scenario(), 60)).count(b"200") == 2
    assert (len(started), counted) == (2, ["CANCELLED", "OK", "OK"])


def context(remaining: float | None):
    class Context:
        code = None

        def time_remaining(self) -> float | None:
            return remaining

        def invocation_metadata(self) -> tuple:
            return ()

        async def abort(self, code, message: str):
            self.code = code
            raise grpc.aio.AbortError

    return Context()


@pytest.mark.parametrize(("remaining", "limit_s"), [(None, 0.05), (0.1, None)])
def test_a_call_without_a_deadline_gets_the_servers(counted, remaining, limit_s):
    let_go = threading.Event()
    registry = Registry()
    model = registry.models["m"] = Model(ModelSettings("m", Path("m")))
    model.versions[1] = Version("m", 1, None, State.AVAILABLE, loaded=Loaded(lambda x: let_go.wait(60) and [x]))
    model.changed()
    service = grpc_api.PredictionService(registry, Runner(1), PredictionLog(LogSettings(), registry), 0.05)
    request = regression_pb2.RegressionRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "a"
    request.input.example_list.examples.add()

    async def call() -> object:
        call_context = context(remaining)
        with contextlib.suppress(grpc.aio.AbortError, TimeoutError):
            await asyncio.wait_for(service.Regress(request, call_context), 1.0)
        return call_context.code

    code = asyncio.run(call())
    let_go.set()
    assert (code, counted) == ((Code.DEADLINE_EXCEEDED, ["DEADLINE_EXCEEDED"]) if limit_s else (None, ["CANCELLED"]))


def test_messages_of_grpc_count_with_the_bodies_of_rest():
    let_go = threading.Event()

    def run(serialized):
        assert let_go.wait(60)
        return [np.zeros(len(serialized), np.float32)]

    def request(size: int) -> regression_pb2.RegressionRequest:
        made = regression_pb2.RegressionRequest()
        made.model_spec.name, made.model_spec.signature_name = "m", "a"
        made.input.example_list.examples.add().features.feature["x"].bytes_list.value.append(b"x" * size)
        return made

    async def refused(call) -> Code:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        return error.value.code()

    async def scenario() -> None:
        registry, settings = Registry(), Settings(port=0)
        model = registry.models["m"] = Model(ModelSettings("m", Path("m")))
        model.versions[1] = Version("m", 1, None, State.AVAILABLE, loaded=Loaded(run))
        model.changed()
        server, bodies = grpc_server(settings), Bodies(10_000, 10_000)
        service = grpc_api.PredictionService(registry, Runner(2), PredictionLog(LogSettings(), registry))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, Registrar(server, bodies))
        port = await start_grpc(server, settings)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            garbage = channel.unary_unary("/tensorflow.serving.PredictionService/Regress")
            held = asyncio.ensure_future(stub.Regress(request(6000), timeout=60))
            while not model.versions[1].in_flight:
                await asyncio.sleep(0.01)
            assert 6000 < bodies.pending < 7000
            assert await refused(stub.Regress(request(6000), timeout=60)) is Code.RESOURCE_EXHAUSTED
            assert await refused(garbage(b"\xff" * 100)) is Code.INVALID_ARGUMENT
            assert 6000 < bodies.pending < 7000
            bodies.pending += 10_000  # REST's. What comes now is not even read.
            assert await refused(stub.Regress(request(1), timeout=60)) is Code.RESOURCE_EXHAUSTED
            bodies.pending -= 10_000
            let_go.set()
            await held
            await stub.Regress(request(6000), timeout=60)
        await server.stop(None)
        assert bodies.pending == 0

    asyncio.run(asyncio.wait_for(scenario(), 60))
