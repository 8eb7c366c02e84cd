"""Scoring rows in Spark's Python workers with a SavedModel, which each worker loads once.

A worker gets the model by its folder and this code by the checkout's, so both must be there under the same path.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

STEP = 1024
"""Rows of each call of the model. Always as many, so that an answer does not rest on where Spark cuts the rows."""

Batches = Iterator[pa.RecordBatch]


def scorer(
    root: str, folder: str, digest: str, kinds: Mapping[str, str], keep: Sequence[str], output: str
) -> Callable[[Batches], Batches]:
    """What `mapInArrow` runs.

    Args:
      root: The checkout, from which a worker imports this module.
      folder: The SavedModel.
      digest: Of that folder: other content is another model, though a worker has loaded one from there.
      kinds: "category" or "number" of each input of the model.
      keep: Columns that are passed on.
      output: Name of the signature's output.

    Returns:
      From batches with these columns to batches of `keep` and `prediction`, float32. Spark takes it as it is: it names
      nothing of this module until it runs.
    """
    inputs, kept = dict(kinds), list(keep)

    def score(batches: Batches) -> Batches:
        import sys
        from importlib import import_module

        if root not in sys.path:
            sys.path.insert(0, root)
        scoring, examples = import_module("components.modelling.scoring"), import_module("components.data.examples")
        call = scoring.loaded(folder, digest)
        for batch in batches:
            rows = pa.Table.from_batches([batch])
            prediction = scoring.predict(call, examples.raw(rows, inputs), output)
            answer = rows.select(kept).append_column("prediction", pa.array(prediction, pa.float32()))
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
    call: Callable[..., Mapping[str, Any]], columns: Mapping[str, np.ndarray], output: str, step: int = STEP
) -> np.ndarray:
    """The answers, float32 [rows], of raw features by name (`examples.raw`), each [rows]."""
    count = len(next(iter(columns.values())))
    answers = [np.zeros(0, np.float32)]
    for start in range(0, count, step):
        part = {name: _filled(values[start : start + step], step) for name, values in columns.items()}
        answers.append(np.asarray(call(**part)[output])[: min(step, count - start)])
    return np.concatenate(answers)


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    """The values, and the last of them again until there are so many."""
    return np.concatenate([values, np.repeat(values[-1:], size - len(values))]) if len(values) < size else values
