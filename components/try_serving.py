"""try_serving: the real model server loads the candidate, alone, and answers real rows: right, and in time."""

import base64
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.import_string import load
from airtight.interval import Interval
from airtight.verdict import Check, Verdict
from components.data.examples import features as raw_features
from components.data.examples import interval_of, spread_rows
from components.data.feature_kinds import kind_of
from components.modelling import candidate_server, judged
from components.modelling.candidate_server import CANDIDATE
from components.modelling.model_server import OK, ModelServer
from components.modelling.saved_model import Predictor, serving_folder
from components.schema import ExampleSchema
from components.tasks import Task, task_of

log = logging.getLogger(__name__)

TOLERANCE, RELATIVE = 1e-6, 1e-5
"""Largest difference between the answers of one model, called in different ways; of numbers above 1, as a share."""

Rows = dict[str, np.ndarray]


@component
def try_serving(
    examples: InputArtifact[standard_artifacts.Examples],
    model: InputArtifact[standard_artifacts.Model],
    infra_blessing: OutputArtifact[standard_artifacts.InfraBlessing],
    schema: Parameter[str],
    blessing: InputArtifact[standard_artifacts.ModelBlessing] = None,
    requests: Parameter[int] = 200,
    p99_limit_ms: Parameter[float] = 50.0,
    start_timeout_s: Parameter[float] = 120.0,
    memory_limit_mb: Parameter[int] = 2048,
) -> None:
    """Starts the model server on the candidate and asks it for rows of the split `test`, by REST and by gRPC.

    Args:
      examples: The rows.
      model: The candidate.
      infra_blessing: Custom property `blessed` (1 or 0) and TFX's marker file, with the verdict in words, and which
        model was tried.
      schema: Dotted name of the ExampleSchema.
      blessing: What evaluate decided; a model that it did not bless is not tried.
      requests: How many rows are sent, one by one, each way.
      p99_limit_ms: The slowest hundredth of the answers may take so long, in milliseconds.
      start_timeout_s: The server has so long to start and to load the candidate.
      memory_limit_mb: The server with the candidate alone, at its largest, may be resident in so much memory, MiB.

    Raises:
      TransientError: The server does not start.
      TerminalError: The blessing is of another model.
    """
    ends = interval_of(examples)
    if blessing is not None:
        judged.check("evaluate", blessing, model)
    if blessing is not None and blessing.get_int_custom_property("blessed") != 1:
        checks = [Check("blessed by evaluate", False, note="Not tried: evaluate did not bless the model.")]
    else:
        wanted: ExampleSchema = load(schema)
        rows = raw_features(spread_rows(Path(examples.uri), "test", wanted, requests, wanted.names), wanted)
        checks = trial(serving_folder(model.uri), wanted, rows, p99_limit_ms, start_timeout_s, memory_limit_mb)
    verdict = Verdict("try_serving", str(Interval.of(*ends)), tuple(checks))
    judged.write(infra_blessing, model)
    _record(infra_blessing, verdict, ends)


def trial(
    folder: Path,
    schema: ExampleSchema,
    rows: Rows,
    p99_limit_ms: float,
    start_timeout_s: float,
    memory_limit_mb: float = math.inf,
) -> list[Check]:
    """Serves a SavedModel for a moment and judges it.

    Args:
      folder: The SavedModel.
      schema: Its features.
      rows: Raw features by name, each of shape [rows, ...].
      p99_limit_ms: The bound for each protocol.
      start_timeout_s: For the server to start and load.
      memory_limit_mb: The bound for the server's resident memory at its largest, MiB.

    Returns:
      What was looked at, in order.

    Raises:
      TransientError: The server does not start.
    """
    count = len(next(iter(rows.values())))
    if not count:
        return [Check("rows to try", False, 0, ">= 1", note="The split test has no rows.")]
    task = task_of(schema)
    with candidate_server.serve(folder, start_timeout_s) as server:
        error = candidate_server.await_loaded(server, start_timeout_s)
        if error:
            return [Check("loads", False, note=error)]
        spoken = [
            ask_all("REST", _rest(server.rest, task, rows), count),
            ask_all("gRPC", _grpc(server.grpc_address, task, rows), count),
        ]
        largest_mb = candidate_server.largest_resident_mb(server.process.pid)
    checks = [Check("loads", True, note="The model server loaded the candidate.")]
    for answers in spoken:
        checks += _judge(answers, p99_limit_ms)
    note = "The server's resident memory at its largest: starting, loading, and after the requests."
    checks.append(
        Check("memory in MiB", largest_mb <= memory_limit_mb, round(largest_mb), f"<= {memory_limit_mb:g}", note=note)
    )
    if all(not answers.error for answers in spoken):
        called = Predictor(folder, schema)(rows)
        rest, grpc_ = (answers.values for answers in spoken)
        checks.append(_equal("REST equals gRPC", rest, grpc_))
        checks.append(_equal("served equals called in process", rest, called))
    return checks


@dataclass(frozen=True)
class Answers:
    """What one protocol gave.

    Args:
      protocol: "REST" or "gRPC".
      values: The task's predictions, float64 [rows] or [rows, outputs]; fewer when a request failed.
      latencies_ms: Of each request, milliseconds.
      error: The first failure in words, or empty.
    """

    protocol: str
    values: np.ndarray
    latencies_ms: np.ndarray
    error: str = ""


def ask_all(protocol: str, ask: Callable[[int], np.ndarray], count: int) -> Answers:
    """Asks for each row in turn; the first failure ends it. The time to connect counts for no row.

    Args:
      protocol: Its name.
      ask: From the row's number to its prediction; raises `Refused`.
      count: How many rows.
    """
    values, latencies = [], []
    error = ""
    try:
        ask(0)
        for index in range(count):
            started = time.perf_counter()
            values.append(ask(index))
            latencies.append(1e3 * (time.perf_counter() - started))
    except Refused as refused:
        error = f"Row {len(values)}: {refused}"
    return Answers(protocol, np.array(values, np.float64), np.array(latencies), error)


class Refused(Exception):
    """The server answered a request with an error, or with something that is no prediction of the task."""


def _rest(server: ModelServer, task: Task, rows: Rows) -> Callable[[int], np.ndarray]:
    path = f"/v1/models/{CANDIDATE}:predict"

    def ask(index: int) -> np.ndarray:
        # NaN stands for a missing number; JSON as TensorFlow Serving reads it has that word.
        row = {name: _json(column[index]) for name, column in rows.items()}
        status, answer = server.request("POST", path, json.dumps({"instances": [row]}).encode())
        if status != OK:
            raise Refused(f"status {status}, {answer.get('error')}")
        outputs = answer["predictions"][0]
        if not isinstance(outputs, dict):  # A model of one output answers it without its name.
            outputs = {task.outputs[0]: outputs}
        return _prediction(task, {name: [value] for name, value in outputs.items()})

    return ask


def _grpc(address: str, task: Task, rows: Rows) -> Callable[[int], np.ndarray]:
    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    types = {feature.name: kind_of(feature).tensor(feature)[0] for feature in task.schema.features}

    def ask(index: int) -> np.ndarray:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = CANDIDATE
        for name, column in rows.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(column[index : index + 1].tolist(), types[name]))
        try:
            answer = stub.Predict(request, timeout=30)
        except grpc.RpcError as error:
            raise Refused(f"{error.code().name}, {error.details()}") from error
        return _prediction(task, {name: tf.make_ndarray(output) for name, output in answer.outputs.items()})

    return ask


def _json(value: Any) -> Any:
    """A feature's value as REST takes it."""
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _prediction(task: Task, outputs: Mapping[str, Any]) -> np.ndarray:
    """The prediction of one row, of a model's outputs by name, each [1, ...].

    Raises:
      Refused: They are no prediction of the task.
    """
    try:
        prediction = task.predictions(outputs).astype(np.float64)
    except (KeyError, ValueError, TypeError) as error:
        raise Refused(f"the answer {dict(outputs)!r} is no {', '.join(task.outputs)}: {error}") from error
    if not np.isfinite(prediction).all():
        raise Refused(f"the answer {prediction[0]!r} is no finite number")
    if task.wrong_predictions(prediction):
        raise Refused(f"the answer {prediction[0]!r} is no {', '.join(task.outputs)}")
    row: np.ndarray = prediction[0]
    return row


def _judge(answers: Answers, p99_limit_ms: float) -> list[Check]:
    name = answers.protocol
    if answers.error:
        return [Check(f"{name} answers", False, len(answers.values), note=answers.error)]
    p50, p99 = np.percentile(answers.latencies_ms, [50, 99])
    return [
        Check(f"{name} answers", True, len(answers.values), note="Every row got a finite number."),
        Check(f"{name} p50 in ms", True, float(p50)),
        Check(f"{name} p99 in ms", bool(p99 <= p99_limit_ms), float(p99), f"<= {p99_limit_ms:g}"),
    ]


def _equal(name: str, left: np.ndarray, right: np.ndarray) -> Check:
    size = np.abs(left)
    # Numbers of any unit have the digits of float32; what counts is the share of them that differs.
    difference = float(np.max(np.abs(left - right) / np.where(size > 1, size * (RELATIVE / TOLERANCE), 1)))
    note = "Largest absolute difference; of numbers above 1 a tenth of the relative one."
    return Check(name, difference <= TOLERANCE, difference, f"<= {TOLERANCE:g}", note=note)


def _record(infra_blessing: Any, verdict: Verdict, ends: tuple[str, str]) -> None:
    for check in verdict.checks:
        log.log(logging.INFO if check.passed else logging.WARNING, "%s", check)
    log.info("%s", verdict)
    folder = Path(infra_blessing.uri)
    verdict.write(folder)
    # TFX's own conventions, so that its Pusher and its conditions understand the artifact.
    (folder / ("INFRA_BLESSED" if verdict.passed else "INFRA_NOT_BLESSED")).touch()
    infra_blessing.set_int_custom_property("blessed", int(verdict.passed))
    infra_blessing.set_string_custom_property("reason", str(verdict))
    infra_blessing.set_string_custom_property("interval_start", ends[0])
    infra_blessing.set_string_custom_property("interval_end", ends[1])
