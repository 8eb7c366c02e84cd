"""A SavedModel's signatures, prepared once at load time so that a request only fills in values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Args:
      name: Its name in requests.
      tensor: Its name in the graph.
      dtype: TensorFlow's data type.
      numpy: The same for NumPy; object for strings.
      shape: Sizes, None for one that varies; None as a whole for an unknown rank.
      enum: The data type as protobuf has it.
      text: Whether it holds strings.
      fixed: The dimensions whose size is given, as (axis, size).
      column: Whether it has one size alone, which varies.
    """

    name: str
    tensor: str
    dtype: tf.DType
    numpy: np.dtype
    shape: tuple[int | None, ...] | None
    # What each request asks of a tensor is worked out once: tf.DType compares and converts in slow Python.
    enum: int = field(init=False)
    text: bool = field(init=False)
    fixed: tuple[tuple[int, int], ...] = field(init=False)
    column: bool = field(init=False)

    def __post_init__(self) -> None:
        worked_out = {
            "enum": self.dtype.as_datatype_enum,
            "text": self.dtype == tf.string,
            "fixed": tuple((axis, size) for axis, size in enumerate(self.shape or ()) if size is not None),
            "column": self.shape == (None,),
        }
        for name, value in worked_out.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, name: str, info: meta_graph_pb2.TensorInfo) -> TensorSpec:
        """From a SavedModel's description."""
        dtype = tf.dtypes.as_dtype(info.dtype)
        sizes = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
        shape = None if info.tensor_shape.unknown_rank else sizes
        return cls(name, info.name, dtype, np.dtype(dtype.as_numpy_dtype), shape)

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape is one that the model declares.

        Others are not refused: as in TensorFlow Serving, the graph's operations decide whether they take them.
        """
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(shape[axis] == size for axis, size in self.fixed)


SURPRISE_S = 0.05
"""A call that keeps a processor busy for longer, and ten times as long as those of its size, is a surprise."""


@dataclass(slots=True)
class Observed:
    """What is known of the cost of a signature's calls.

    Args:
      costs: Seconds of a processor that a call took lately, by the number of bits in the size of its inputs.
      by_row: False once it answered another number of rows than it was asked.
      steady: Whether the cost follows from the sizes of the inputs; False for good once a call was a surprise.
    """

    costs: dict[int, float] = field(default_factory=dict)
    by_row: bool = True
    steady: bool = True

    def expected_s(self, size: int) -> float | None:
        """Seconds that a call with inputs of `size` bytes is expected to take; None if there was none yet."""
        return self.costs.get(size.bit_length())

    def took(self, seconds: float, size: int) -> None:
        """Remembers a call.

        Args:
          seconds: For how long it kept a processor busy; what else had the processor meanwhile does not count.
          size: Bytes of its inputs.
        """
        bucket = size.bit_length()
        known = self.costs.get(bucket, seconds)
        if seconds > max(SURPRISE_S, 10 * known):
            self.steady = False
        # A moving mean, so that one odd call does not decide for the next. It falls faster than it rises, because a
        # first call prepares the kernels.
        weight = 0.5 if seconds < known else 0.1
        self.costs[bucket] = known + weight * (seconds - known)


_SERIALS = itertools.count()
_LOADS = itertools.count()


def new_load() -> int:
    """A number for one load of a version; see `Signature.load`."""
    return next(_LOADS)


@dataclass(frozen=True, slots=True)
class Signature:
    """One way to call a model.

    Args:
      name: Its key in the SavedModel.
      method: TensorFlow Serving's method name, such as "tensorflow/serving/predict"; may be empty.
      inputs: In the order in which `run` takes them.
      outputs: In the order in which `run` answers them.
      run: From arrays of the inputs' dtypes to arrays of the outputs' dtypes; may be called from several threads.
      defaults: What inputs hold that a request by gRPC leaves out, by name.
      observed: What its calls have shown.
      load: A number that all signatures of one load of a version share, and no other in this process.
      batchable: Whether rows of several requests may stand in one call: the first size of all tensors is open.
      serial: A number of its own in this process: the same signature of another version has another.
    """

    name: str
    method: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    run: Callable[..., list[np.ndarray]]
    defaults: Mapping[str, tensor_pb2.TensorProto] = field(default_factory=dict)
    observed: Observed = field(default_factory=Observed)
    load: int = field(default_factory=new_load)
    batchable: bool = field(init=False)
    serial: int = field(init=False)

    def __post_init__(self) -> None:
        shapes = [spec.shape for spec in (*self.inputs, *self.outputs)]
        batchable = bool(self.inputs) and all(shape and shape[0] is None for shape in shapes)
        object.__setattr__(self, "batchable", batchable)
        object.__setattr__(self, "serial", next(_SERIALS))


def is_callable(definition: meta_graph_pb2.SignatureDef) -> bool:
    """Whether every input and output is one dense tensor (the initialiser of a SavedModel, for one, is not)."""
    infos = [*definition.inputs.values(), *definition.outputs.values()]
    return bool(definition.outputs) and all(info.WhichOneof("encoding") == "name" and info.dtype for info in infos)


def mismatches(specs: Sequence[TensorSpec], arrays: Sequence[np.ndarray]) -> str:
    """Which inputs have another shape than the model declares, in words; empty where all have theirs."""
    return ", ".join(
        f"input {spec.name!r} is declared with the shape {_shown(spec.shape or ())}, but got {_shown(array.shape)}"
        for spec, array in zip(specs, arrays, strict=True)
        if not spec.fits(array.shape)
    )


def size_of(arrays: Iterable[np.ndarray]) -> int:
    """Bytes of all arrays together, those of their strings included."""
    size = 0
    for array in arrays:
        size += array.nbytes
        if array.dtype.hasobject:
            size += sum(map(len, array.ravel().tolist()))
    return size


def _shown(shape: Sequence[int | None]) -> str:
    return "[" + ",".join("?" if size is None else str(size) for size in shape) + "]"
