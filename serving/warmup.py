"""Warm-up: the requests that a model brings along are replayed before it is available."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving import examples, tensors_proto
from serving.errors import Code, ServingError
from serving.loader import LoadedModel

REQUESTS = Path("assets.extra", "tf_serving_warmup_requests")
"""TFRecords of PredictionLog, where TensorFlow Serving looks for them."""
MAX_RECORDS = 1000
"""TensorFlow Serving's limit."""


def replay(model: LoadedModel, path: Path) -> int:
    """Sends each recorded request to the model.

    Args:
      model: The loaded version.
      path: Its folder.

    Returns:
      How many were replayed.

    Raises:
      ServingError: A record cannot be read or the model refuses it: the version does not become available.
    """
    file = path / REQUESTS
    if not file.is_file():
        return 0
    count = 0
    try:
        for count, record in enumerate(tf.compat.v1.io.tf_record_iterator(str(file)), start=1):
            if count > MAX_RECORDS:
                raise ServingError(Code.INVALID_ARGUMENT, f"Number of warmup records exceeds the maximum {MAX_RECORDS}")
            _replay_one(model, prediction_log_pb2.PredictionLog.FromString(record))
    except (tf.errors.DataLossError, DecodeError) as error:
        raise ServingError(Code.DATA_LOSS, f"Failed to parse warmup record {count + 1} of {file}: {error}") from error
    return count


def _replay_one(model: LoadedModel, log: prediction_log_pb2.PredictionLog) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        signature = model.signature(request.model_spec.signature_name)
        signature.run(*tensors_proto.decode_inputs(request.inputs, signature))
    elif kind in ("classify_log", "regress_log"):
        verb = kind.removesuffix("_log")
        request = getattr(log, kind).request
        signature = model.signature(request.model_spec.signature_name)
        signature.run(*examples.arrays(request.input, signature, verb))
    elif kind == "multi_inference_log":
        for task in log.multi_inference_log.request.tasks:
            signature = model.signature(task.model_spec.signature_name)
            verb = task.method_name.rsplit("/", 1)[-1]
            signature.run(*examples.arrays(log.multi_inference_log.request.input, signature, verb))
    elif kind is not None:  # A record without one is skipped, as TensorFlow Serving skips it.
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
