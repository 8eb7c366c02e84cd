"""Scoring rows in Spark's Python workers with a SavedModel, which each worker loads once.

A worker gets the model by its folder and this code by the checkout's, so both must be there under the same path.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from airtight.errors import TerminalError
from components.data import examples as reading
from components.data.row_faults import RowFault, named
from components.schema import Kind

UNSCORED = "The model cannot answer for these examples: "
"""How the fault of a worker begins, for who reads it out of Spark's."""
STEP = 1024
"""Rows of each call of the model. Always as many, so that an answer does not rest on where Spark cuts the rows."""

Batches = Iterator[pa.RecordBatch]
_TYPES = {1: pa.float32(), 2: pa.float64(), 3: pa.int32(), 7: pa.string(), 9: pa.int64(), 10: pa.bool_()}
"""Columns by TensorFlow's number of a type (types.proto)."""
_LIST_RANK = 2


def outputs_of(folder: Path) -> dict[str, pa.DataType]:
    """Name and type of each output of a SavedModel's `serving_default`, in the order of names.

    An output of one value a row is a column of it, one of several a column of lists. The model is not loaded.

    Raises:
      TerminalError: An output is of another shape or type.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    graph = next(graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags)
    types: dict[str, pa.DataType] = {}
    for name, output in sorted(graph.signature_def["serving_default"].outputs.items()):
        shape, type_ = output.tensor_shape, _TYPES.get(output.dtype)
        if type_ is None or shape.unknown_rank or len(shape.dim) not in (1, _LIST_RANK):
            raise TerminalError(
                f"The output {name} of the model in {folder} is no column.",
                expected="numbers or texts, [batch] or [batch, values]",
                received=f"type {output.dtype}, shape {[dim.size for dim in shape.dim]}",
                remedy="Leave the output away from the signature serving_default, or give it that shape.",
            )
        types[name] = type_ if len(shape.dim) == 1 else pa.list_(type_)
    return types


def scorer(
    root: str, folder: str, digest: str, kinds: Mapping[str, str], keep: Sequence[str], outputs: pa.Schema
) -> Callable[[Batches], Batches]:
    """What `mapInArrow` runs.

    Args:
      root: The checkout, from which a worker imports this module.
      folder: The SavedModel.
      digest: Of that folder: other content is another model, though a worker has loaded one from there.
      kinds: Kind of feature of each input of the model.
      keep: Columns that are passed on.
      outputs: Of the signature, by name.

    Returns:
      From batches with these columns to batches of `keep` and the outputs. Spark takes it as it is: it names nothing of
      this module until it runs.
    """
    inputs, kept = dict(kinds), list(keep)

    def score(batches: Batches) -> Batches:
        import sys
        from importlib import import_module

        if root not in sys.path:
            sys.path.insert(0, root)
        scoring = import_module("components.modelling.scoring")
        call = scoring.loaded(folder, digest)
        for batch in batches:
            rows = pa.Table.from_batches([batch])
            answer = rows.select(kept)
            response = scoring.predict_or_name(call, rows, inputs, kept, outputs.names)
            for field in outputs:
                answer = answer.append_column(field, scoring.column(response[field.name], field.type))
            yield from answer.combine_chunks().to_batches()

    return score


@functools.lru_cache(maxsize=1)
def loaded(folder: str, digest: str) -> Callable[..., Mapping[str, Any]]:
    """The signature `serving_default` of a SavedModel, loaded once in a process.

    Args:
      folder: The SavedModel.
      digest: Tells content apart; see `scorer`.
    """
    # Set before TensorFlow is imported: its start-up messages speak of GPUs that a worker does not look for.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import tensorflow as tf

    # Spark runs a worker on each core. In a process that has computed already, threads are as they are.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    model = tf.saved_model.load(folder)
    signature = model.signatures["serving_default"]

    def call(**columns: np.ndarray) -> Mapping[str, Any]:
        assert model is not None, "kept as long as its signature"
        return signature(**{name: tf.constant(values) for name, values in columns.items()})

    return call


def predict(
    call: Callable[..., Mapping[str, Any]], columns: Mapping[str, np.ndarray], outputs: Sequence[str], step: int = STEP
) -> dict[str, np.ndarray]:
    """The outputs by name, [rows, ...], of raw features by name (`examples.raw`), each [rows, ...].

    Of no rows an output is an empty array.
    """
    count = len(next(iter(columns.values())))
    answers: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    for start in range(0, count, step):
        response = call(**{name: _filled(values[start : start + step], step) for name, values in columns.items()})
        for name in outputs:
            answers[name].append(np.asarray(response[name])[: min(step, count - start)])
    return {name: np.concatenate(parts) if parts else np.zeros(0, np.float32) for name, parts in answers.items()}


def predict_or_name(
    call: Callable[..., Mapping[str, Any]],
    rows: pa.Table,
    inputs: Mapping[str, Kind],
    keep: Sequence[str],
    outputs: Sequence[str],
) -> dict[str, np.ndarray]:
    """As `predict`, of rows of examples.

    Raises:
      ValueError: The model fails; a row that is to blame is named by its columns `keep`.
    """
    import tensorflow as tf

    columns = reading.raw(rows, inputs)
    try:
        return predict(call, columns, outputs)
    except tf.errors.InvalidArgumentError as error:
        row = first_failing(
            lambda part: predict(call, {name: values[part] for name, values in columns.items()}, outputs),
            slice(0, rows.num_rows),
        )
        words = "" if row is None else f"it fails on the row {named(rows.slice(row, 1), keep)}: "
        # One line: Spark puts its own behind it.
        raise ValueError(UNSCORED + " ".join((words + reason_of(error)).split())) from error


def reason_of(error: Exception) -> str:
    """Why TensorFlow failed, in its own words: the line before the one that names the node of the graph."""
    lines = str(error).splitlines() or [type(error).__name__]
    nodes = [place for place, line in enumerate(lines) if line.lstrip().startswith("[[{{")]
    return lines[max(0, nodes[0] - 1) if nodes else 0][:200]


def of_row(fault: TerminalError, call: Callable[[slice], Any], rows: slice, *, answered: bool = False) -> TerminalError:
    """The fault of a model that fails on rows, as a `RowFault` where one of them is to blame.

    Args:
      fault: The fault.
      call: As `first_failing`.
      rows: As `first_failing`.
      answered: As `first_failing`.
    """
    row = first_failing(call, rows, answered=answered)
    if row is None:
        return fault
    return RowFault(fault.message, row, expected=fault.expected, received=fault.received, remedy=fault.remedy)


def first_failing(call: Callable[[slice], Any], rows: slice, *, answered: bool = False) -> int | None:
    """The place of a row on which a model fails that fails on all of them, the first of such rows.

    Args:
      call: Calls the model with a part of the rows.
      rows: Those on which it failed.
      answered: Whether it is known to answer for other rows.

    Returns:
      None where no row fails alone while the model answers for others: then it is no row's fault.
    """
    import tensorflow as tf

    def fails(first: int, end: int) -> bool:
        try:
            call(slice(first, end))
        except tf.errors.InvalidArgumentError:
            return True
        return False

    first, end, untried = rows.start, rows.stop, []
    try:
        while end - first > 1:
            middle = (first + end) // 2
            if fails(first, middle):
                untried.append((middle, end))
                end = middle
            else:
                first, answered = middle, True
        answered = answered or any(not fails(*part) for part in reversed(untried))
        return first if answered and fails(first, end) else None
    except tf.errors.OpError:  # Of the machine, as for want of memory: the first fault says more.
        return None


def column(values: np.ndarray, type_: pa.DataType) -> pa.Array:
    """An output, [rows] or [rows, values], as a column; texts are bytes."""
    if not len(values):
        return pa.array([], type_)
    if pa.types.is_list(type_):
        flat = column(values.reshape(-1), type_.value_type)
        return pa.ListArray.from_arrays(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1], flat)
    return pa.array([text.decode() for text in values], type_) if pa.types.is_string(type_) else pa.array(values, type_)


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    """The values, and the last of them again until there are so many."""
    if len(values) == size:
        return values
    return np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])
