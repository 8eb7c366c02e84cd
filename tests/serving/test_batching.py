"""Batching: requests run together, each gets its own rows, and none hears of another's fault."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from airtight.errors import TerminalError
from serving import metrics
from serving.batching import Batcher
from serving.batching_parameters import BatchingParameters, opportunistic, parameters_from_file
from serving.errors import Code, ServingError, invalid
from serving.inference import Runner
from serving.loader import load
from serving.signature import Signature, TensorSpec, size_of
from tests.serving import models


def spec(name: str, *shape: int | None, dtype: tf.DType = tf.float32) -> TensorSpec:
    return TensorSpec(name, f"{name}:0", dtype, np.dtype(dtype.as_numpy_dtype), shape)


class Model:
    """A model in Python, y = 2 x, that writes down the sizes of its batches and can be held."""

    def __init__(self, *shape: int | None, out: tuple[int | None, ...] = (None,)) -> None:
        self.sizes: list[int] = []
        self.signature = Signature("s", "", (spec("x", *(shape or (None,))),), (spec("y", *out),), self.run)
        self.gate = asyncio.Event()
        self.gate.set()

    def run(self, x):
        self.sizes.append(len(x))
        if np.isnan(x).any():
            raise invalid("a number is missing")
        return [2 * x]

    async def call(self, model: str, signature: Signature, arrays):
        await self.gate.wait()
        return signature.run(*arrays)


def column(*numbers: float) -> list[np.ndarray]:
    return [np.array(numbers, np.float32)]


async def until(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


def batched(parameters: BatchingParameters, *requests, model: Model | None = None) -> tuple[list, list[int]]:
    """Answers (or errors) of requests that are made in one turn of the loop, and the sizes of the model's batches."""

    async def ask():
        made = model or Model()
        batcher = Batcher(parameters, made.call)
        asked = [batcher.run("m", made.signature, arrays) for arrays in requests]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [a if isinstance(a, Exception) else a[0].tolist() for a in answers], made.sizes

    return asyncio.run(ask())


def test_requests_of_one_turn_run_together_and_each_gets_its_own_rows():
    answers, sizes = batched(BatchingParameters(), column(1, 2), column(3), column(4, 5, 6))
    assert answers == [[2, 4], [6], [8, 10, 12]]
    assert sizes == [6]


def test_requests_that_come_while_a_batch_runs_are_the_next_batch():
    async def scenario():
        model = Model()
        batcher = Batcher(opportunistic(2), model.call)
        model.gate.clear()
        first = asyncio.ensure_future(batcher.run("m", model.signature, column(1)))
        await until(lambda: batcher._running)
        others = [asyncio.ensure_future(batcher.run("m", model.signature, column(n))) for n in range(2, 9)]
        await until(lambda: sum(queue.rows for queue in batcher._queues.values()) == 7)
        assert len(batcher._running) == 1
        model.gate.set()
        answers = await asyncio.gather(first, *others)
        assert [answer[0].tolist() for answer in answers] == [[2 * n] for n in range(1, 9)]
        assert model.sizes == [1, 7]
        await until(lambda: not batcher._queues and not batcher._running)

    asyncio.run(scenario())


@pytest.mark.parametrize(("seconds", "sizes"), [(1.0, [4, 4]), (1e-5, [8])])
def test_what_waits_shares_the_threads_where_a_batch_is_long_and_runs_as_one_where_it_is_short(seconds, sizes):
    async def scenario():
        model = Model()
        for rows in (1, 2, 4, 8):
            model.signature.observed.took(seconds, size_of(column(*range(rows))))
        batcher = Batcher(opportunistic(2), model.call, inline_s=1e-3)
        answers = await asyncio.gather(*[batcher.run("m", model.signature, column(n)) for n in range(8)])
        assert [answer[0].tolist() for answer in answers] == [[2 * n] for n in range(8)]
        assert model.sizes == sizes

    asyncio.run(scenario())


@pytest.mark.parametrize(("each", "sizes"), [(1, [8, 8]), (3, [9, 9])])
def test_what_waits_is_not_dealt_out_in_pieces_so_short_that_they_run_on_the_loop(each, sizes):
    async def scenario():
        model = Model()
        for rows in (1, 2, 4, 8, 16):
            model.signature.observed.took(1.0 if rows >= 8 else 1e-5, size_of(column(*range(rows))))
        batcher = Batcher(opportunistic(4), model.call, inline_s=1e-3)
        asked = [column(*[n] * each) for n in range(sum(sizes) // each)]
        answers = await asyncio.gather(*[batcher.run("m", model.signature, arrays) for arrays in asked])
        assert [answer[0].tolist() for answer in answers] == [[2 * n] * each for n in range(len(asked))]
        assert model.sizes == sizes

    asyncio.run(scenario())


def test_a_batch_keeps_to_its_size_and_a_larger_request_runs_alone():
    answers, sizes = batched(BatchingParameters(max_batch_size=4), *[column(n, n) for n in range(5)], column(*range(9)))
    assert answers == [[2 * n, 2 * n] for n in range(5)] + [[2 * n for n in range(9)]]
    assert sorted(sizes) == [2, 4, 4, 9]


def test_rows_of_other_sizes_do_not_meet():
    two, three = np.ones((1, 2), np.float32), np.full((2, 3), 5, np.float32)
    answers, sizes = batched(BatchingParameters(), [two], [three], [two], model=Model(None, None, out=(None, None)))
    assert answers == [[[2, 2]], [[10, 10, 10]] * 2, [[2, 2]]]
    assert sorted(sizes) == [2, 2]


def test_a_batch_is_filled_up_to_an_allowed_size_and_the_filling_is_cut_off():
    parameters = BatchingParameters(max_batch_size=8, allowed_batch_sizes=(2, 8))
    answers, sizes = batched(parameters, column(1), column(2), column(3))
    assert (answers, sizes) == ([[2], [4], [6]], [8])
    answers, sizes = batched(parameters, column(1))
    assert (answers, sizes) == ([[2]], [2])


def test_a_request_that_the_model_refuses_does_not_fail_the_others():
    answers, sizes = batched(BatchingParameters(), column(1), column(float("nan")), column(3))
    assert answers[0] == [2] and answers[2] == [6]
    assert isinstance(answers[1], ServingError) and answers[1].code == Code.INVALID_ARGUMENT
    assert sizes == [3, 1, 1, 1]


def test_a_fault_of_any_kind_is_answered_to_who_met_it():
    model = Model()
    broken = Signature("s", "", model.signature.inputs, model.signature.outputs, lambda x: 1 / 0)
    model.signature = broken
    answers, _ = batched(BatchingParameters(), column(1), column(2), model=model)
    assert [type(answer) for answer in answers] == [ZeroDivisionError] * 2


def test_a_full_queue_refuses_with_unavailable_and_loses_nobody():
    async def scenario():
        model = Model()
        batcher = Batcher(BatchingParameters(max_batch_size=2, max_enqueued_batches=2, num_batch_threads=1), model.call)
        model.gate.clear()
        running = asyncio.ensure_future(batcher.run("m", model.signature, column(0)))
        await until(lambda: batcher._running)
        waiting = [asyncio.ensure_future(batcher.run("m", model.signature, column(n))) for n in range(1, 5)]
        await until(lambda: sum(queue.rows for queue in batcher._queues.values()) == 4)
        with pytest.raises(ServingError, match="queue is full") as refused:
            await batcher.run("m", model.signature, column(9))
        assert refused.value.code == Code.UNAVAILABLE
        model.gate.set()
        answers = await asyncio.gather(running, *waiting)
        assert [answer[0].tolist() for answer in answers] == [[2 * n] for n in range(5)]
        assert (await batcher.run("m", model.signature, column(9)))[0].tolist() == [18]

    asyncio.run(scenario())


def test_a_request_that_is_given_up_takes_no_place_in_a_batch():
    async def scenario():
        model = Model()
        batcher = Batcher(BatchingParameters(num_batch_threads=1), model.call)
        model.gate.clear()
        first = asyncio.ensure_future(batcher.run("m", model.signature, column(1)))
        await until(lambda: batcher._running)
        given_up = asyncio.ensure_future(batcher.run("m", model.signature, column(2)))
        kept = asyncio.ensure_future(batcher.run("m", model.signature, column(3)))
        await until(lambda: sum(queue.rows for queue in batcher._queues.values()) == 2)
        given_up.cancel()
        model.gate.set()
        assert [(await first)[0].tolist(), (await kept)[0].tolist()] == [[2], [6]]
        assert given_up.cancelled() and model.sizes == [1, 1]

    asyncio.run(scenario())


def test_a_timeout_waits_for_others_but_not_for_a_batch_that_is_full():
    async def scenario():
        loop, model = asyncio.get_running_loop(), Model()
        now = loop.time()
        loop.time = lambda: now  # The loop's own clock, which this test moves.
        batcher = Batcher(BatchingParameters(max_batch_size=3, batch_timeout_s=5), model.call)
        first = asyncio.ensure_future(batcher.run("m", model.signature, column(1)))
        await until(lambda: batcher._timer)
        second = asyncio.ensure_future(batcher.run("m", model.signature, column(2)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert model.sizes == []
        third = asyncio.ensure_future(batcher.run("m", model.signature, column(3)))
        await asyncio.gather(first, second, third)
        assert model.sizes == [3]
        late = asyncio.ensure_future(batcher.run("m", model.signature, column(4)))
        await until(lambda: batcher._timer)
        now += 6
        assert (await late)[0].tolist() == [8]
        assert model.sizes == [3, 1]

    asyncio.run(scenario())


def test_signatures_take_turns():
    async def scenario():
        one, other = Model(), Model()
        batcher = Batcher(BatchingParameters(max_batch_size=2, num_batch_threads=1), one.call)
        order = []
        asked = [(one, n) for n in range(4)] + [(other, n) for n in range(2)]

        async def ask(model, n):
            await batcher.run("m", model.signature, column(n))
            order.append(model)

        await asyncio.gather(*[ask(model, n) for model, n in asked])
        assert order == [one, one, other, other, one, one]

    asyncio.run(scenario())


@pytest.fixture(scope="module")
def affine(tmp_path_factory):
    root = tmp_path_factory.mktemp("affine")
    models.save_affine(root / "1", 3.0, 1.0)
    loaded = load(root / "1", root, 1)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Dense layers, whose kernels depend on the batch's size, and an integer output."""

    class Network(tf.Module):
        def __init__(self):
            super().__init__()
            generator = tf.random.Generator.from_seed(1)
            self.hidden, self.out = tf.Variable(generator.normal([6, 64])), tf.Variable(generator.normal([64, 3]))

        @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float32, "x"), tf.TensorSpec([None], tf.string, "w")])
        def serve(self, x, w):
            scores = tf.nn.relu(x @ self.hidden) @ self.out
            return {"p": tf.nn.softmax(scores), "best": tf.argmax(scores, 1), "word": tf.strings.upper(w)}

    root = tmp_path_factory.mktemp("network")
    module = Network()
    tf.saved_model.save(module, str(root / "1"), signatures=module.serve)
    loaded = load(root / "1", root, 1)
    yield loaded
    loaded.close()


def test_only_signatures_of_rows_are_batched(affine):
    assert {name: found.batchable for name, found in affine.signatures.items()} == {
        "serving_default": True,
        "matrix": True,
        "scalar": False,
        "uneven": True,
    }


def test_a_model_that_does_not_answer_row_by_row_is_found_out_and_never_batched_again(affine):
    signature = affine.signature("uneven")
    plain, joined = Runner(1), Runner(1, BatchingParameters())

    async def ask():
        together = await asyncio.gather(*[joined.run("m", signature, column(n, n + 1)) for n in range(4)])
        assert not signature.observed.by_row
        again = await joined.run("m", signature, column(7))
        alone = [await plain.run("m", signature, column(n, n + 1)) for n in range(4)]
        for got, wanted in zip([*together, again], [*alone, await plain.run("m", signature, column(7))], strict=True):
            assert [array.tolist() for array in got] == [array.tolist() for array in wanted]

    asyncio.run(ask())


def test_batched_answers_are_those_of_single_requests(network):
    signature = network.signature("")
    generator = np.random.default_rng(0)
    requests = []
    for index in range(60):
        rows = int(generator.integers(1, 9))
        words = np.array([f"{index}-{row}".encode() for row in range(rows)], object)
        requests.append({"w": words, "x": generator.normal(size=(rows, 6)).astype(np.float32)})
    arrays = [[request[found.name] for found in signature.inputs] for request in requests]
    plain, joined = Runner(1), Runner(2, BatchingParameters(max_batch_size=64, num_batch_threads=2))
    before = dict(metrics.BATCHES._sums), dict(metrics.BATCHED_REQUESTS._sums)

    async def ask():
        alone = [await plain.run("n", signature, one) for one in arrays]
        together = await asyncio.gather(*[joined.run("n", signature, one) for one in arrays])
        for single, batch in zip(alone, together, strict=True):
            for expected, got, output in zip(single, batch, signature.outputs, strict=True):
                assert expected.dtype == got.dtype and expected.shape == got.shape
                if output.name == "p":
                    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
                else:
                    assert got.tolist() == expected.tolist()

    asyncio.run(ask())
    batches, counted = metrics.BATCHES._sums["n",], metrics.BATCHED_REQUESTS._sums["n",]
    assert (counted - before[1].get(("n",), 0)) == 60
    assert batches - before[0].get(("n",), 0) < 12


def test_a_cheap_call_does_not_wait_for_a_batch():
    model = Model()
    model.signature.observed.took(1e-6, 4)
    runner = Runner(1, opportunistic(1))
    counted = metrics.BATCHED_REQUESTS._sums.get(("cheap",), 0)
    asyncio.run(runner.run("cheap", model.signature, column(1)))
    assert metrics.BATCHED_REQUESTS._sums.get(("cheap",), 0) == counted
    model.signature.observed.took(1.0, 4)
    asyncio.run(runner.run("cheap", model.signature, column(1)))
    assert metrics.BATCHED_REQUESTS._sums["cheap",] == counted + 1


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ([np.float32(1), np.ones(1)], [np.float32(1), np.ones(1000)]),
        ([np.array([b"a"], object)], [np.array([b"a" * 1000], object)]),
    ],
)
def test_what_a_call_costs_is_remembered_by_the_size_of_all_inputs_and_of_their_strings(small, large):
    threads = []

    def run(*arrays):
        threads.append(threading.get_ident())
        return []

    signature = Signature("s", "", (), (), run)
    signature.observed.took(1e-6, size_of(small))
    runner = Runner(1)
    for arrays in (small, large):
        asyncio.run(runner.run("m", signature, arrays))
    assert [one == threading.get_ident() for one in threads] == [True, False]


def written(folder: Path, text: str) -> Path:
    file = folder / "batching.config"
    file.write_text(text)
    return file


def test_a_parameters_file_is_read_as_tensorflow_serving_reads_it(tmp_path):
    told = parameters_from_file(
        written(
            tmp_path,
            """max_batch_size { value: 32 } batch_timeout_micros { value: 2000 } max_enqueued_batches { value: 7 }
               num_batch_threads { value: 3 } thread_pool_name { value: "b" } allowed_batch_sizes: 8
               allowed_batch_sizes: 32 pad_variable_length_inputs: false""",
        ),
        workers=2,
    )
    assert told == BatchingParameters(32, 0.002, 7, 3, (8, 32))
    assert parameters_from_file(written(tmp_path, ""), workers=5) == BatchingParameters(1000, 0.0, 10, 5)


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size: 32",
        "max_batchsize { value: 1 }",
        "max_batch_size { value: 0 }",
        "num_batch_threads { value: 0 }",
        "max_enqueued_batches { value: 0 }",
        "batch_timeout_micros { value: -1 }",
        "allowed_batch_sizes: 8 allowed_batch_sizes: 4",
        "max_batch_size { value: 16 } allowed_batch_sizes: 8",
        "pad_variable_length_inputs: true",
    ],
)
def test_parameters_that_cannot_be_kept_are_refused(tmp_path, text):
    with pytest.raises(TerminalError):
        parameters_from_file(written(tmp_path, text), workers=1)
    with pytest.raises(TerminalError):
        parameters_from_file(tmp_path / "nowhere", workers=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that waits a moment for others, so that requests that are sent together do meet."""
    root = tmp_path_factory.mktemp("batched")
    (root / "models").mkdir()
    models.save_mixed(root / "models" / "mixed" / "1")
    parameters = written(
        root,
        "max_batch_size { value: 24 } batch_timeout_micros { value: 20000 } max_enqueued_batches { value: 1 } "
        "num_batch_threads { value: 1 }",
    )
    flags = ["--enable_batching", f"--batching_parameters_file={parameters}"]
    with models.running(root, f"--models_root={root}/models", *flags) as running:
        yield running


def mixed_row(client: int, row: int) -> dict:
    number = 100 * client + row
    return {
        "pair": [number, 0.5],
        "count": number,
        "word": f"{client}/{row}",
        "flag": bool(client % 2),
        "exact": number / 7,
    }


@pytest.mark.slow
def test_clients_over_rest_and_grpc_get_their_own_rows_from_common_batches(server):
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc}")
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def by_rest(client: int) -> list[tuple]:
        rows = [mixed_row(client, row) for row in range(1 + client % 3)]
        status, answer = server.ask("POST", "/v1/models/mixed:predict", {"instances": rows})
        assert status == 200, answer
        return [(one["count"], one["word"], one["flag"], one["exact"]) for one in answer["predictions"]]

    def by_grpc(client: int) -> list[tuple]:
        rows = [mixed_row(client, row) for row in range(1 + client % 3)]
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "mixed"
        types = {"pair": tf.float32, "count": tf.int32, "word": tf.string, "flag": tf.bool, "exact": tf.float64}
        for name, dtype in types.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto([row[name] for row in rows], dtype))
        outputs = {name: tf.make_ndarray(proto) for name, proto in stub.Predict(request, timeout=60).outputs.items()}
        words = [word.decode() for word in outputs["word"].tolist()]
        return list(
            zip(outputs["count"].tolist(), words, outputs["flag"].tolist(), outputs["exact"].tolist(), strict=True)
        )

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            asked = {client: pool.submit((by_rest, by_grpc)[client % 2], client) for client in range(8)}
            for client, answer in asked.items():
                rows = [mixed_row(client, row) for row in range(1 + client % 3)]
                assert answer.result() == [(row["count"], row["word"], row["flag"], row["exact"]) for row in rows]
    channel.close()
    text = server.raw("GET", "/monitoring/prometheus/metrics")[1].decode()
    counts = {
        name: int(line.rpartition(" ")[2])
        for line in text.splitlines()
        for name in ("batch_count", "batched_request_count")
        if line.startswith(f":airtight:serving:{name}{{")
    }
    assert counts["batched_request_count"] == 40 > counts["batch_count"]


@pytest.mark.slow
def test_a_full_queue_is_503_over_rest(server):
    rows = [mixed_row(0, row) for row in range(20)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in range(20):
            asked = [
                pool.submit(server.ask, "POST", "/v1/models/mixed:predict", {"instances": rows}) for _ in range(16)
            ]
            answers = [one.result() for one in asked]
            for status, answer in answers:
                if status == 503:
                    assert "queue is full" in answer["error"]
                else:
                    assert (status, [one["count"] for one in answer["predictions"]]) == (200, list(range(20)))
            if any(status == 503 for status, _ in answers):
                break
        else:
            raise AssertionError("sixteen requests of 20 rows at once never filled a queue of 24")
    assert server.ask("POST", "/v1/models/mixed:predict", {"instances": rows})[0] == 200
