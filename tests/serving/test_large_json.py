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

import numpy as np
import psutil
import pytest
import tensorflow as tf

from serving import large_json, tensors_json
from serving.errors import Code, ServingError
from serving.large_json import APART_BYTES, LargeJson
from serving.signature import Signature, TensorSpec
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


async def told(reader: LargeJson, body: bytes, signature: Signature):
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
            got = await told(reader, body, signature)
            if isinstance(expected[1], str):
                assert got == expected
                continue
            assert (got[0], got[2]) == (expected[0], expected[2])
            for mine, other in zip(got[1], expected[1], strict=True):
                assert mine.dtype == other.dtype and mine.shape == other.shape
                assert mine.tolist() == other.tolist() or mine.tobytes() == other.tobytes()
        assert (await told(reader, b"{", signature))[0] == Code.INVALID_ARGUMENT
        assert (await told(reader, b'{"signature_name": 1}', signature))[0] == Code.INVALID_ARGUMENT

    asyncio.run(ask())


def test_a_process_that_dies_is_told_and_replaced():
    async def ask():
        reader, body = LargeJson(), b'{"instances": [[1, 2]]}'
        assert (await told(reader, body, ONE))[0] == ""
        reader._process.kill()
        reader._process.wait()
        assert (await told(reader, body, ONE))[0] == Code.UNAVAILABLE
        assert (await told(reader, body, ONE))[0] == ""

    asyncio.run(ask())


def test_the_process_keeps_nothing_of_a_body_whatever_became_of_it():
    async def ask():
        reader = LargeJson()
        await told(reader, b'{"instances": [[1, 2]]}', ONE)
        process = psutil.Process(reader._process.pid)
        before = process.memory_info().rss
        refused = json.dumps({"instances": [list(range(1_000_000))] * 2, "inputs": 1}).encode()
        fine = json.dumps({"instances": [[float(n), 1.5] for n in range(200_000)]}).encode()
        for body, code in ((refused, Code.INVALID_ARGUMENT), (fine, ""), (b" " * (20 << 20), Code.INVALID_ARGUMENT)):
            assert (await told(reader, body, ONE))[0] == code
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
    assert isinstance(asyncio.run(told(LargeJson(), body, MANY))[1], list)
    assert len(threads) == 4 and threading.get_ident() not in threads


def test_requests_take_turns_and_one_that_is_given_up_leaves_the_next_its_own_answer():
    async def ask():
        reader = LargeJson()

        def body(number: int) -> bytes:
            return json.dumps({"instances": [[number, number]] * 2000}).encode()

        asked = [asyncio.ensure_future(told(reader, body(number), ONE)) for number in range(8)]
        await asyncio.sleep(0)
        asked[0].cancel()
        asked[3].cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
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


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("names", ["f", "w", "fiw", "fm"])
def test_an_answer_written_in_pieces_is_the_same(monkeypatch, rows, names):
    generator = np.random.default_rng(0)
    made = {
        "f": (generator.normal(size=11).astype(np.float32), spec("f", tf.float32, None)),
        "i": (np.arange(11), spec("i", tf.int64, None)),
        "w": (np.array([b'a"b', "ü".encode(), b"\xff", b""] * 2 + [b"x"] * 3, object), spec("w", tf.string, None)),
        "m": (generator.normal(size=(11, 3, 2)), spec("m", tf.float64, None, 3, 2)),
    }
    arrays, specs = [made[name][0] for name in names], tuple(made[name][1] for name in names)
    signature = Signature("s", "", (), specs, lambda: [])
    whole = tensors_json.encode(arrays, signature, rows)
    for piece in (1, 3, 7):
        monkeypatch.setattr(tensors_json, "PIECE", piece)
        assert tensors_json.encode(arrays, signature, rows) == whole
    json.loads(whole)
    for array in (np.zeros((0, 2)), np.float64(1.5), np.zeros((2, 0))):
        only = Signature("s", "", (), (spec("y", tf.float64),), lambda: [])
        monkeypatch.setattr(tensors_json, "PIECE", 0)
        assert json.loads(tensors_json.encode([np.asarray(array)], only, False)) == {"outputs": array.tolist()}


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
