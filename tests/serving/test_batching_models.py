"""Batches of SavedModels: each request is answered as if it were alone, over REST and gRPC, too."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import metrics
from serving.batching_parameters import BatchingParameters, opportunistic
from serving.inference import Runner
from serving.loader import load
from serving.signature import Signature, size_of
from tests.serving import models
from tests.serving.batching import Model, column, written


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
    assert {name: signature.batchable for name, signature in affine.signatures.items()} == {
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
    arrays = [[request[tensor.name] for tensor in signature.inputs] for request in requests]
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
            futures = {client: pool.submit((by_rest, by_grpc)[client % 2], client) for client in range(8)}
            for client, answer in futures.items():
                rows = [mixed_row(client, row) for row in range(1 + client % 3)]
                assert answer.result() == [(row["count"], row["word"], row["flag"], row["exact"]) for row in rows]
    channel.close()
    text = server.raw("GET", "/monitoring/prometheus/metrics")[1].decode()
    counts = {
        name: int(line.rpartition(" ")[2])
        for line in text.splitlines()
        for name in ("batches_total", "batched_requests_total")
        if line.startswith(f"airtight_serving_{name}{{")
    }
    assert counts["batched_requests_total"] == 40 > counts["batches_total"]


@pytest.mark.slow
def test_a_full_queue_is_503_over_rest(server):
    rows = [mixed_row(0, row) for row in range(20)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for _ in range(20):
            futures = [
                pool.submit(server.ask, "POST", "/v1/models/mixed:predict", {"instances": rows}) for _ in range(16)
            ]
            answers = [one.result() for one in futures]
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
