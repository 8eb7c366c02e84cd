"""The settings of batching: TensorFlow Serving's BatchingParameters, as its `--batching_parameters_file` has them."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, text_format, wrappers_pb2

from airtight.errors import TerminalError

logger = logging.getLogger(__name__)

_LONG, _TEXT = "google.protobuf.Int64Value", "google.protobuf.StringValue"
_FIELDS = (
    ("max_batch_size", 1, _LONG),
    ("batch_timeout_micros", 2, _LONG),
    ("max_enqueued_batches", 3, _LONG),
    ("num_batch_threads", 4, _LONG),
    ("thread_pool_name", 5, _TEXT),
    ("allowed_batch_sizes", 6, "int64"),
    ("pad_variable_length_inputs", 7, "bool"),
)
"""TensorFlow Serving's message; tensorflow-serving-api does not ship its generated code."""


@dataclass(frozen=True)
class BatchingParameters:
    """When requests run together.

    Args:
      max_batch_size: Rows of one batch; a request with more of them runs alone.
      batch_timeout_s: A request waits so long for others; 0 waits for nobody.
      max_enqueued_batches: So many full batches may wait for each signature; a request beyond them is UNAVAILABLE.
      num_batch_threads: Batches that run at the same time.
      allowed_batch_sizes: A batch is filled up to the next of these sizes; empty leaves it as it is.
      opportunistic: Short batches of a signature run one at a time, long ones share the threads; calls that cost less
        than putting a batch together run alone at once.
    """

    max_batch_size: int = 1000
    batch_timeout_s: float = 0.0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 1
    allowed_batch_sizes: tuple[int, ...] = ()
    opportunistic: bool = False

    def __post_init__(self) -> None:
        sizes = self.allowed_batch_sizes
        for name, value, least in (
            ("max_batch_size", self.max_batch_size, 1),
            ("batch_timeout_micros", self.batch_timeout_s, 0),
            ("max_enqueued_batches", self.max_enqueued_batches, 1),
            ("num_batch_threads", self.num_batch_threads, 1),
        ):
            if value < least:
                raise _refusal(f"{name} of at least {least}", str(value))
        if sizes and (sizes[0] < 1 or list(sizes) != sorted(set(sizes)) or sizes[-1] != self.max_batch_size):
            raise _refusal(
                f"allowed_batch_sizes that increase, the last being max_batch_size ({self.max_batch_size})", str(sizes)
            )


def opportunistic(workers: int) -> BatchingParameters:
    """The parameters without a file: what is there together runs together, and nobody waits for others to come.

    Beyond 64 rows a call on a processor costs in proportion to its rows, so that larger batches would only keep the
    first requests waiting.

    Args:
      workers: Threads for inference.
    """
    return BatchingParameters(
        max_batch_size=64, max_enqueued_batches=160, num_batch_threads=workers, opportunistic=True
    )


def parameters_from_file(path: Path, workers: int) -> BatchingParameters:
    """Reads a BatchingParameters file in protobuf's text format; what it leaves out is as in TensorFlow Serving.

    Args:
      path: The file.
      workers: Threads for inference, the default of num_batch_threads.

    Raises:
      TerminalError: It cannot be read, or asks for what is not supported.
    """
    parameters = _message()()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), parameters)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise TerminalError(
            "The batching parameters file cannot be read.",
            expected="a BatchingParameters in protobuf's text format, such as max_batch_size { value: 128 }",
            received=f"{path}: {error}",
            remedy="Correct --batching_parameters_file.",
        ) from error
    if parameters.pad_variable_length_inputs:
        raise _refusal(
            "pad_variable_length_inputs to be false: padding makes an answer depend on whom a request met", "true"
        )
    if parameters.HasField("thread_pool_name"):
        logger.info("thread_pool_name is ignored: there is one pool of threads for inference")

    def value(name: str, default: int) -> int:
        return getattr(parameters, name).value if parameters.HasField(name) else default

    return BatchingParameters(
        max_batch_size=value("max_batch_size", BatchingParameters.max_batch_size),
        batch_timeout_s=value("batch_timeout_micros", 0) / 1e6,
        max_enqueued_batches=value("max_enqueued_batches", BatchingParameters.max_enqueued_batches),
        num_batch_threads=value("num_batch_threads", workers),
        allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
    )


@functools.cache
def _message() -> type[message.Message]:
    # A pool of its own: a later tensorflow-serving-api may register the message under its name.
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="batching_parameters.proto", package="tensorflow.serving", syntax="proto3"
    )
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    described = file.message_type.add(name="BatchingParameters")
    for name, number, kind in _FIELDS:
        label = kinds.LABEL_REPEATED if name == "allowed_batch_sizes" else kinds.LABEL_OPTIONAL
        if kind in (_LONG, _TEXT):
            described.field.add(name=name, number=number, label=label, type=kinds.TYPE_MESSAGE, type_name=f".{kind}")
        else:
            scalar = kinds.TYPE_INT64 if kind == "int64" else kinds.TYPE_BOOL
            described.field.add(name=name, number=number, label=label, type=scalar)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters"))


def _refusal(expected: str, received: str) -> TerminalError:
    return TerminalError(
        "The batching parameters are not usable.",
        expected=expected,
        received=received,
        remedy="Correct the file of --batching_parameters_file.",
    )
