"""Large JSON bodies, parsed by a process beside the server: the same answers, the same refusals, and it may die."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import tensorflow as tf
from tensorflow.core.example import example_pb2

from serving import examples, examples_json, json_pieces, large_json, rest, tensors_json
from serving.config import ModelSettings, Settings
from serving.errors import Code, ServingError
from serving.inference import Runner
from serving.large_json import APART_BYTES, LargeJson
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.settings import LogSettings
from serving.signature import Signature, TensorSpec
from serving.versions import Model, Registry, State, Version
from tests.serving import models


def spec(name: str, dtype: tf.DType, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, f"{name}:0", dtype, np.dtype(dtype.as_numpy_dtype), shape)


ONE = Signature("one", "", (spec("x", tf.float32, None, 2),), (), lambda: [])
MANY = Signature(
    "many",
    "",
    (
        spec("flag", tf.bool, None),
        spec("half", tf.bfloat16, None),
        spec("number", tf.int64, None),
        spec("word", tf.string, None, None),
    ),
    (),
    lambda: [],
)
ROW = {"flag": True, "half": 1.5, "number": -7, "word": ["ä", {"b64": "/w=="}]}
OTHER = {"flag": False, "half": float("inf"), "number": 2**62, "word": ["", "wörter"]}


SCORED = Signature("scored", "tensorflow/serving/classify", (spec("inputs", tf.string, None),), (), lambda: [])
NAMED = Signature("named", "tensorflow/serving/classify", (spec("x", tf.string, None),), (), lambda: [])


async def decoded(reader: LargeJson, body: bytes, signature: Signature):
    try:
        async with reader.parsed("m", body) as document:
            return document.signature_name, *await document.decode(signature)
    except ServingError as error:
        return error.code, error.message


def wanted(body: bytes, signature: Signature):
    try:
        document = tensors_json.parse(body)
        return document.get("signature_name", ""), *tensors_json.decode(document, signature)
    except ServingError as error:
        return error.code, error.message


@pytest.mark.parametrize(
    ("document", "signature"),
    [
        ({"instances": [[1, 2.5], [3, float("nan")]]}, ONE),
        ({"instances": [ROW, OTHER, ROW], "signature_name": "many"}, MANY),
        (
            {"inputs": {"flag": [True], "half": [0.1], "number": [1], "word": [[]]}, "signature_name": "ä\ud800 NaN"},
            MANY,
        ),
        ({"instances": [[1, 2], [3]]}, ONE),
        ({"instances": [[1, 2, 3]]}, ONE),
        ({"instances": [[1, "2"]]}, ONE),
        ({"instances": [ROW, {**ROW, "more": 1}]}, MANY),
        ({"instances": []}, ONE),
        ({"neither": 1}, ONE),
        ([1], ONE),
    ],
)
def test_the_other_process_says_what_this_one_would(document, signature):
    async def ask():
        reader = LargeJson()
        body = json.dumps(document).encode()
        expected = wanted(body, signature)
        for _ in range(2):  # It goes on after whatever it has refused.
            got = await decoded(reader, body, signature)
            if isinstance(expected[1], str):
                assert got == expected
                continue
            assert (got[0], got[2]) == (expected[0], expected[2])
            for mine, other in zip(got[1], expected[1], strict=True):
                assert mine.dtype == other.dtype and mine.shape == other.shape
                assert mine.tolist() == other.tolist() or mine.tobytes() == other.tobytes()
        assert (await decoded(reader, b"{", signature))[0] == Code.INVALID_ARGUMENT
        assert (await decoded(reader, b'{"signature_name": 1}', signature))[0] == Code.INVALID_ARGUMENT

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("document", "verb", "signature"),
    [
        (
            {"examples": [{"x": 1.5, "y": [1, True], "z": ["ä", {"b64": "/w=="}]}, {}, {"x": float("nan")}]},
            "classify",
            SCORED,
        ),
        ({"examples": [{"x": 1.5}, {"y": "own"}], "context": {"y": ["shared"], "c": []}}, "classify", SCORED),
        ({"examples": [{"x": 1.5}]}, "regress", SCORED),
        ({"examples": [{"x": 1.5}]}, "classify", NAMED),
        ({"examples": [{"x": 1}, {"x": 2**63}]}, "classify", SCORED),
        ({"examples": [{"x": [1, "a"]}]}, "classify", SCORED),
        ({"examples": [{"x": {"b64": "-"}}]}, "classify", SCORED),
        ({"examples": [{}], "context": {"x": None}}, "classify", SCORED),
        ({"examples": [1]}, "classify", SCORED),
        ({"examples": []}, "classify", SCORED),
        ({"instances": [1]}, "classify", SCORED),
    ],
)
def test_the_other_process_makes_the_examples_that_this_one_would(document, verb, signature):
    body = json.dumps(document).encode()

    def features(arrays: list[np.ndarray]) -> list[str]:
        return [str(example_pb2.Example.FromString(serialized)) for serialized in arrays[0]]

    async def ask():
        reader = LargeJson()
        async with reader.parsed("m", body) as parsed:
            return features(await parsed.examples(signature, verb))

    try:
        expected = features(examples.arrays_from_json(tensors_json.parse(body), signature, verb))
    except ServingError as error:
        with pytest.raises(ServingError) as refused:
            asyncio.run(ask())
        assert (refused.value.code, refused.value.message) == (error.code, error.message)
    else:
        assert asyncio.run(ask()) == expected


def test_what_an_example_holds_is_what_tensorflow_reads():
    request = {"examples": [{"x": [1.5, 2], "y": [1, True]}, {"z": {"b64": "/w=="}}], "context": {"y": ["a"], "c": []}}
    first, second = map(example_pb2.Example.FromString, examples_json.serialized_examples(request, "regress"))
    assert {name: value.WhichOneof("kind") for name, value in first.features.feature.items()} == {
        "x": "float_list",
        "y": "int64_list",
        "c": "int64_list",
    }
    assert list(first.features.feature["x"].float_list.value) == [1.5, 2.0]
    assert list(first.features.feature["y"].int64_list.value) == [1, 1]
    assert list(second.features.feature["y"].bytes_list.value) == [b"a"]
    assert list(second.features.feature["z"].bytes_list.value) == [b"\xff"]


@pytest.mark.parametrize("verb", ["predict", "classify", "regress"])
def test_the_server_parses_no_large_body_itself(monkeypatch, verb):
    """In whichever thread: it would keep the interpreter."""
    registry, sent = Registry(), []
    model = registry.models["m"] = Model(ModelSettings("m", Path("m")))
    outputs = {
        "predict": lambda rows: [rows[:, 0]],
        "classify": lambda serialized: [np.ones((len(serialized), 1), np.float32)],
        "regress": lambda serialized: [np.ones(len(serialized), np.float32)],
    }
    given = spec("x", tf.float32, None, 2) if verb == "predict" else spec("inputs", tf.string, None)
    answered = spec({"predict": "y", "classify": "scores", "regress": "outputs"}[verb], tf.float32, None)
    called = Signature("s", f"tensorflow/serving/{verb}", (given,), (answered,), outputs[verb])
    loaded = SimpleNamespace(signature=lambda name: called)
    model.versions[1] = Version("m", 1, None, State.AVAILABLE, loaded=loaded)
    model.changed()
    monkeypatch.delattr(tensors_json, "parse")
    entry, key = (b"[1.0,2.0]", b"instances") if verb == "predict" else (b'{"x":1.0}', b"examples")
    count = APART_BYTES // len(entry)
    body = b'{"' + key + b'":[' + b",".join([entry] * count) + b"]}"

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    scope = {"raw_path": b"/v1/models/m:" + verb.encode(), "method": "POST", "headers": []}
    log = PredictionLog(LogSettings(), registry)
    asyncio.run(rest.RestApi(registry, Runner(1), Settings(), log)(scope, receive, send))
    [answer] = json.loads(sent[1]["body"]).values()
    assert (sent[0]["status"], answer) == (200, [[["", 1.0]] if verb == "classify" else 1.0] * count)


def test_a_process_that_dies_is_told_and_replaced():
    async def ask():
        reader, body = LargeJson(), b'{"instances": [[1, 2]]}'
        assert (await decoded(reader, body, ONE))[0] == ""
        reader._process.kill()
        reader._process.wait()
        assert (await decoded(reader, body, ONE))[0] == Code.UNAVAILABLE
        assert (await decoded(reader, body, ONE))[0] == ""

    asyncio.run(ask())


def test_the_process_keeps_nothing_of_a_body_whatever_became_of_it():
    async def ask():
        reader = LargeJson()
        await decoded(reader, b'{"instances": [[1, 2]]}', ONE)
        process = psutil.Process(reader._process.pid)
        before = process.memory_info().rss
        refused = json.dumps({"instances": [list(range(1_000_000))] * 2, "inputs": 1}).encode()
        fine = json.dumps({"instances": [[float(n), 1.5] for n in range(200_000)]}).encode()
        for body, code in ((refused, Code.INVALID_ARGUMENT), (fine, ""), (b" " * (20 << 20), Code.INVALID_ARGUMENT)):
            assert (await decoded(reader, body, ONE))[0] == code
        async with reader.parsed("m", refused):
            pass  # Its model, say, is unknown.
        deadline = time.monotonic() + 20
        # The document needs 80 MiB; of what is freed, glibc keeps a piece of 32 MiB at most.
        while process.memory_info().rss > before + (40 << 20):
            assert time.monotonic() < deadline, f"{(process.memory_info().rss - before) >> 20} MiB more than before"
            await asyncio.sleep(0.02)

    asyncio.run(ask())


def test_strings_are_made_beside_the_event_loop(monkeypatch):
    threads = []
    made = large_json._array
    monkeypatch.setattr(large_json, "_array", lambda *given: threads.append(threading.get_ident()) or made(*given))
    body = json.dumps({"instances": [ROW, OTHER]}).encode()
    assert isinstance(asyncio.run(decoded(LargeJson(), body, MANY))[1], list)
    assert len(threads) == 4 and threading.get_ident() not in threads


def test_requests_take_turns_and_one_that_is_given_up_leaves_the_next_its_own_answer():
    async def ask():
        reader = LargeJson()

        def body(number: int) -> bytes:
            return json.dumps({"instances": [[number, number]] * 2000}).encode()

        tasks = [asyncio.ensure_future(decoded(reader, body(number), ONE)) for number in range(8)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[3].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for number, answer in enumerate(answers):
            if number in (0, 3):
                assert isinstance(answer, asyncio.CancelledError)
            else:
                assert answer[1][0].tolist() == [[number, number]] * 2000

    asyncio.run(ask())


def test_many_bodies_of_one_model_delay_another_models_by_one_at_most():
    async def ask() -> list[str]:
        reader, order = LargeJson(), []

        async def one(model: str) -> None:
            async with reader.parsed(model, b'{"instances": [[1, 2]]}') as document:
                await document.decode(ONE)
                order.append(model)

        many = [asyncio.ensure_future(one("a")) for _ in range(6)]
        await asyncio.sleep(0)
        await asyncio.gather(one("b"), *many)
        return order

    assert asyncio.run(ask()).index("b") <= 1


@pytest.fixture
def written(monkeypatch):
    """How many numbers and strings each piece holds that is written at once."""
    sizes, dump = [], json_pieces.dump

    def count(value) -> int:
        if isinstance(value, (list, tuple)):
            return sum(map(count, value))
        return sum(map(count, value.values())) if isinstance(value, dict) else np.size(value)

    monkeypatch.setattr(json_pieces, "dump", lambda value, finite: sizes.append(count(value)) or dump(value, finite))
    return sizes


GENERATOR = np.random.default_rng(0)
LONG = {
    "f": (GENERATOR.normal(size=11).astype(np.float32), spec("f", tf.float32, None)),
    "i": (np.arange(11), spec("i", tf.int64, None)),
    "w": (np.array([b'a"b', "ü".encode(), b"\xff", b""] * 2 + [b"x"] * 3, object), spec("w", tf.string, None)),
    "m": (GENERATOR.normal(size=(11, 3, 2)), spec("m", tf.float64, None, 3, 2)),
    "n": (np.array([0.1, np.nan, -np.inf] * 3 + [1e-7, 1e30], np.float32), spec("n", tf.float32, None)),
    "b": (GENERATOR.normal(size=11) > 0, spec("b", tf.bool, None)),
    "h": (np.array([0.1, np.nan] * 5 + [2.0], np.float16), spec("h", tf.float16, None)),
    "t": (np.array([[[b"a", b"\xff"]]] * 11, object), spec("t", tf.string, None, 1, 2)),
}


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("names", ["f", "w", "fiw", "fm", "n", "nibw", "h", "tm", "mn"])
def test_an_answer_written_in_pieces_is_the_same(monkeypatch, written, rows, names):
    arrays, specs = [LONG[name][0] for name in names], tuple(LONG[name][1] for name in names)
    signature = Signature("s", "", (), specs, lambda: [])
    whole = tensors_json.encode(arrays, signature, rows)
    for piece in (1, 3, 7):
        monkeypatch.setattr(json_pieces, "PIECE", piece)
        written.clear()
        assert tensors_json.encode(arrays, signature, rows) == whole
        assert max(written) <= max(piece, len(names))
    values = [
        [float(str(x)) for x in array] if array.dtype in (np.float32, np.float16) else array.tolist()
        for array in arrays
    ]
    if "w" not in names and "t" not in names:
        named = dict(zip(names, values, strict=True))
        by_row = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
        expected = {"predictions" if rows else "outputs": values[0] if len(names) == 1 else by_row if rows else named}
        assert str(json.loads(whole)) == str(expected)  # NaN is NaN's equal.
    for array in (np.zeros((0, 2)), np.float64(1.5), np.zeros((2, 0))):
        only = Signature("s", "", (), (spec("y", tf.float64),), lambda: [])
        monkeypatch.setattr(json_pieces, "PIECE", 0)
        assert json.loads(tensors_json.encode([np.asarray(array)], only, False)) == {"outputs": array.tolist()}


def test_one_large_row_is_written_in_pieces(written):
    array = np.zeros((1, 3 * json_pieces.PIECE), np.float32)
    for shape, specs in (((1, -1), ("y",)), ((1, 3, -1), ("y", "z"))):
        signature = Signature("s", "", (), tuple(spec(name, tf.float32) for name in specs), lambda: [])
        written.clear()
        arrays = [array.reshape(shape)] * len(specs)
        rows = json.loads(tensors_json.encode(arrays, signature, True))["predictions"]
        assert rows == ([arrays[0][0].tolist()] if len(specs) == 1 else [dict.fromkeys(specs, arrays[0][0].tolist())])
        assert max(written) <= json_pieces.PIECE


@pytest.mark.parametrize("last", [0.3, float("nan")])
@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_the_result_of_large_examples_is_written_in_pieces(monkeypatch, written, verb, last):
    scores = np.array([[0.1, 1e-7], [2.0, 1e30], [7.5, last]], np.float32)
    labels = np.array([[b"low", "hö".encode()], [b'"', b"\xff"], [b"", b"a"]], object)
    if verb == "classify":
        outputs, names = [labels, scores], ("classes", "scores")
        texts = [[label.decode("utf-8", "replace") for label in entry] for entry in labels]
        expected = [list(map(list, zip(*pair, strict=True))) for pair in zip(texts, rounded(scores), strict=True)]
    else:
        outputs, names = [scores[:, 1:]], ("outputs",)
        expected = [value[1] for value in rounded(scores)]
    signature = Signature("s", "", (), tuple(spec(name, tf.float32) for name in names), lambda: [])
    whole = examples.result_json(outputs, signature, verb, 3)
    assert str(json.loads(whole)) == str({"results": expected})
    monkeypatch.setattr(json_pieces, "PIECE", 4)
    written.clear()
    assert examples.result_json(outputs, signature, verb, 3) == whole
    assert max(written) <= 4


def rounded(scores: np.ndarray) -> list[list[float]]:
    """As a float32 is written."""
    return [[float(str(score)) for score in entry] for entry in scores]


def test_the_process_does_without_tensorflow():
    code = "import sys, serving.large_json_process; sys.exit('tensorflow' in sys.modules)"
    assert not subprocess.run([sys.executable, "-c", code], cwd=models.ROOT, check=False).returncode


@pytest.mark.slow
def test_a_request_of_50_mb_is_answered_and_ends_with_the_server(tmp_path):
    models.save_affine(tmp_path / "affine" / "1", 2.0)
    with models.running(tmp_path, f"--models_root={tmp_path}") as server:
        rows = 2_500_000
        row = b"[1.250000,2.500000]"
        body = b'{"signature_name":"matrix","instances":[' + b",".join([row] * rows) + b"]}"
        assert len(body) > 50_000_000
        status, answer = server.raw("POST", "/v1/models/affine:predict", body)
        assert (status, answer) == (200, b'{"predictions":[' + b",".join([b"[2.5,5.0]"] * rows) + b"]}")
        body = body[: 2 * APART_BYTES].rpartition(b"],")[0] + b"]]}"
        status, answer = server.ask("POST", "/v1/models/affine/versions/9:predict", body)
        assert (status, answer["error"]) == (404, "Servable not found for request: Specific(affine, 9)")
        assert server.ask("POST", "/v1/models/affine:predict", b"[" * (2 * APART_BYTES))[0] == 400
        (parser,) = psutil.Process(server.process.pid).children()
        os.kill(server.process.pid, signal.SIGTERM)
        server.process.wait(30)
        psutil.wait_procs([parser], 30)
        assert not parser.is_running()
