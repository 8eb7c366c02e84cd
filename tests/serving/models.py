"""Small SavedModels for the tests of serving, and a server process to serve them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.serving.forks import Fork

ROOT = Path(__file__).resolve().parents[2]


class Affine(tf.Module):
    """y = scale * x + shift; the scale tells versions apart."""

    def __init__(self, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.scale, self.shift = tf.Variable(scale), tf.Variable(shift)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": self.scale * x + self.shift}

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def matrix(self, x):
        return {"y": self.scale * x}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def scalar(self, x):
        return {"y": self.scale * x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def uneven(self, x):
        return {"long": tf.concat([x, x], 0), "short": x}


def save_affine(folder: Path, scale: float, shift: float = 0.0) -> None:
    """Writes a SavedModel under a name that servers ignore and renames it, as a publisher does."""
    module = Affine(scale, shift)
    temporary = folder.with_name(f"{folder.name}.tmp")
    signatures = {
        "serving_default": module.serve,
        "matrix": module.matrix,
        "scalar": module.scalar,
        "uneven": module.uneven,
    }
    tf.saved_model.save(module, str(temporary), signatures=signatures)
    temporary.rename(folder)


class Mixed(tf.Module):
    """One input of each kind, named so that their order is not the alphabet's, and a text as bytes and as a string."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, name="pair"),
            tf.TensorSpec([None], tf.int32, name="count"),
            tf.TensorSpec([None], tf.string, name="word"),
            tf.TensorSpec([None], tf.bool, name="flag"),
            tf.TensorSpec([None], tf.float64, name="exact"),
        ]
    )
    def serve(self, pair, count, word, flag, exact):
        return {
            "sum": tf.reduce_sum(pair, 1) + tf.cast(count, tf.float32),
            "count": count,
            "word": word,
            "word_bytes": word,
            "flag": flag,
            "exact": exact,
            "pair": pair,
        }


def save_mixed(folder: Path) -> None:
    """Writes the SavedModel of `Mixed`."""
    module = Mixed()
    tf.saved_model.save(module, str(folder), signatures=module.serve)


@dataclass
class Server:
    """A running server.

    Args:
      process: Its process.
      rest: REST port.
      grpc: gRPC port.
    """

    process: subprocess.Popen | Fork
    rest: int
    grpc: int

    def raw(self, method: str, path: str, body: bytes | str | None = None) -> tuple[int, bytes]:
        """One HTTP request: status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.rest, timeout=60)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, object]:
        """One HTTP request: status and parsed body; a body that is no text is sent as JSON."""
        content = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        status, answer = self.raw(method, path, content)
        return status, json.loads(answer)

    def states(self, model: str) -> dict[int, str]:
        """State by version."""
        status, answer = self.ask("GET", f"/v1/models/{model}")
        return {int(v["version"]): v["state"] for v in answer["model_version_status"]} if status == 200 else {}

    def await_states(self, model: str, **wanted: str) -> None:
        """Waits until versions have these states: v2="AVAILABLE"."""
        expected = {int(name[1:]): state for name, state in wanted.items()}
        deadline = time.monotonic() + 60
        while any(self.states(model).get(number) != state for number, state in expected.items()):
            assert time.monotonic() < deadline, f"{self.states(model)} never became {expected}"
            time.sleep(0.02)


@contextlib.contextmanager
def running(folder: Path, *flags: str):
    """A server process on free ports, until the block ends."""
    with listening(folder, "serving", *flags) as (process, ports):
        yield Server(process, ports["rest_api_port"], ports["port"])


@contextlib.contextmanager
def listening(folder: Path, module: str, *flags: str):
    """A model server or router on free ports, until the block ends: the process, and what it says of itself."""
    folder.mkdir(exist_ok=True)
    ready, output = folder / f"{module}.json", folder / f"{module}.log"
    ready.unlink(missing_ok=True)
    settings = ("--port=0", "--rest_api_port=0", f"--ready_file={ready}", *flags)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if module == "serving":
        process = Fork(module, settings, environment, ROOT, output)
    else:
        with output.open("ab") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *settings],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
    try:
        deadline = time.monotonic() + 300
        while not ready.exists():
            assert process.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.02)
        ports = json.loads(ready.read_text())
        assert ports["pid"] == process.pid
        yield process, ports
    finally:
        process.kill()
        process.wait()


def save_half_plus_two(folder: Path, plus: float = 2.0, regress: str = "regress_x_to_y") -> None:
    """Writes TensorFlow Serving's own test model, y = x / 2 + 2, which also classifies and regresses tf.Examples.

    Args:
      folder: Where.
      plus: Another number than 2, as in half_plus_three.
      regress: The name of the signature that regresses.
    """
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        half, two = v1.get_variable("half", initializer=0.5), v1.get_variable("two", initializer=plus)
        x = v1.placeholder(tf.float32, [None, 1], name="x")
        y = tf.identity(half * x + two, "y")
        serialized = v1.placeholder(tf.string, [None], name="examples")
        parsed = tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        answer = tf.identity(half * parsed + two, "answer")
        labels = tf.concat([tf.fill(tf.shape(answer), "low"), tf.fill(tf.shape(answer), "high")], 1)
        scores = tf.concat([answer, answer * 10], 1)
        describe = v1.saved_model.utils.build_tensor_info

        def signature(inputs, outputs, method):
            tensor_infos = [{name: describe(tensor) for name, tensor in side.items()} for side in (inputs, outputs)]
            return v1.saved_model.build_signature_def(*tensor_infos, f"tensorflow/serving/{method}")

        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            [tf.saved_model.SERVING],
            {
                "serving_default": signature({"x": x}, {"y": y}, "predict"),
                regress: signature({"inputs": serialized}, {"outputs": answer}, "regress"),
                "classify_x": signature({"inputs": serialized}, {"classes": labels, "scores": scores}, "classify"),
            },
        )
        builder.save()


def save_words_tf1(folder: Path, vocabulary: Path) -> None:
    """Writes a SavedModel of TensorFlow 1 that numbers words by a table, which its main_op fills from an asset."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        filename = tf.constant(str(vocabulary))
        v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, filename)
        key, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        filler = tf.lookup.TextFileInitializer(filename, tf.string, key, tf.int64, number)
        table = tf.lookup.StaticHashTable(filler, -1)
        word = v1.placeholder(tf.string, [None], name="word")
        describe = v1.saved_model.utils.build_tensor_info
        signature = v1.saved_model.build_signature_def(
            {"word": describe(word)}, {"number": describe(table.lookup(word))}, "tensorflow/serving/predict"
        )
        session.run(v1.tables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            [tf.saved_model.SERVING],
            {"serving_default": signature},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()


def write_warm_up(folder: Path, *records: bytes) -> None:
    """Writes serialized PredictionLogs where a version brings its warm-up requests."""
    (folder / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for record in records:
            writer.write(record)


class Counting(tf.Module):
    """A model that learns: `train` moves its weight, which `serving_default` answers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(1.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(self, x):
        return {"y": self.weight * x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def train(self, x):
        return {"weight": self.weight.assign_sub(0.1 * (1.0 + tf.reduce_sum(x)))}


class Spinning(tf.Module):
    """Counts up to a request's first number: that says what it costs, and a negative one has no end."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, name="x")])
    def serve(self, x):
        def step(done):
            return (done + 1,)

        return {"y": x * 0 + tf.while_loop(lambda done: tf.not_equal(done, x[0]), step, [tf.constant(0, tf.int64)])[0]}


def save_counting(folder: Path) -> None:
    """Writes the SavedModel of `Counting`."""
    module = Counting()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve, "train": module.train})


def save_spinning(folder: Path) -> None:
    """Writes the SavedModel of `Spinning` under a name that servers ignore and renames it."""
    module = Spinning()
    temporary = folder.with_name(f"{folder.name}.tmp")
    tf.saved_model.save(module, str(temporary), signatures=module.serve)
    temporary.rename(folder)


def predict_record(model: str, values: object, dtype: tf.DType = tf.float32) -> bytes:
    """A warm-up record that asks a model's input x for these values."""
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.name = model
    log.predict_log.request.inputs["x"].CopyFrom(tf.make_tensor_proto(values, dtype))
    return log.SerializeToString()
