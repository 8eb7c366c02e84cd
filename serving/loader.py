"""Loads a SavedModel as TensorFlow Serving does: a session on its graph, one prepared callable for each signature.

A prepared callable takes NumPy arrays and runs on the caller's thread. For a small model it costs 12 us a call, where
the restored Python function costs 590 us; and closing the session gives the memory back at once. Only the SavedModel's
graph, variables and assets are read: no Python code is restored (no pickle, no Keras objects, so no Lambda layers).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from serving.call_cost import is_steady
from serving.errors import BY_NUMBER, Code, ServingError
from serving.graph import Graph
from serving.signature import DEFAULT_SIGNATURE, Observed, Signature, TensorSpec, is_callable, mismatches, new_load
from serving.vetting import Room, size_on_disk, vet

ROOM = Room()
"""Of all loads in this process."""
CALLER_THREAD = -1
"""RunOptions.inter_op_thread_pool: run the graph's operations where the call was made, without a hop."""


class LoadedModel:
    """A SavedModel in memory.

    Args:
      session: The session that holds its variables.
      meta_graph: Its description, as stored.
    """

    def __init__(self, session: tf.compat.v1.Session, meta_graph: meta_graph_pb2.MetaGraphDef) -> None:
        self._session = session
        self._graph = Graph(meta_graph.graph_def)
        self._load = new_load()
        self.definitions: dict[str, meta_graph_pb2.SignatureDef] = dict(meta_graph.signature_def)
        self.signatures = {
            name: self._prepare(name, definition)
            for name, definition in self.definitions.items()
            if is_callable(definition)
        }
        del self._graph  # As large as the model's constants.

    def signature(self, name: str) -> Signature:
        """Finds a signature; the empty name means `serving_default`.

        Raises:
          ServingError: FAILED_PRECONDITION, there is none of that name.
        """
        signature = self.signatures.get(name or DEFAULT_SIGNATURE)
        if signature is None:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def',
            )
        return signature

    def close(self) -> None:
        """Frees variables and tables."""
        self._session.close()

    def _prepare(self, name: str, definition: meta_graph_pb2.SignatureDef) -> Signature:
        inputs = tuple(TensorSpec.of(key, info) for key, info in sorted(definition.inputs.items()))
        outputs = tuple(TensorSpec.of(key, info) for key, info in sorted(definition.outputs.items()))
        options = config_pb2.CallableOptions(
            feed=[spec.tensor for spec in inputs],
            fetch=[spec.tensor for spec in outputs],
            run_options=config_pb2.RunOptions(inter_op_thread_pool=CALLER_THREAD),
        )
        # Session.make_callable, its public sister, takes no run options and hops to a thread pool: 30 times the cost.
        call = self._session._make_callable_from_options(options)

        def run(*arrays: np.ndarray) -> list[np.ndarray]:
            try:
                answers = call(*arrays)
            except tf.errors.OpError as error:
                raise from_tensorflow(error, mismatches(inputs, arrays)) from error
            # TensorFlow answers a single string as bytes, without an array around it.
            return [
                answer if isinstance(answer, np.ndarray) else np.array(answer, spec.numpy)
                for answer, spec in zip(answers, outputs, strict=True)
            ]

        steady = is_steady(self._graph, options.feed, options.fetch)
        observed, defaults = Observed(steady=steady), dict(definition.defaults)
        return Signature(name, definition.method_name, inputs, outputs, run, defaults, observed, self._load)


def load(
    path: Path, base_path: Path, threads: int, max_bytes: int = 0, allowed: frozenset[str] = frozenset()
) -> LoadedModel:
    """Loads one version and runs what TensorFlow Serving runs of it: what restores and initializes it.

    No signature is called: one that trains would change the model, and one need not end for the inputs chosen here.

    Args:
      path: The version's folder.
      base_path: The model's folder; nothing outside it is read.
      threads: TensorFlow's threads within one operation.
      max_bytes: Of all its files; 0 for what fits in free memory.
      allowed: Operations that it may use although they reach beyond the model.

    Raises:
      ServingError: It cannot be loaded; the message says why.
    """
    with ROOM.take(size_on_disk(path)):
        vet(path, base_path, max_bytes, allowed)
        return _restored(path, threads)


def _restored(path: Path, threads: int) -> LoadedModel:
    session = tf.compat.v1.Session(
        graph=tf.Graph(),
        config=config_pb2.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads, device_count={"GPU": 0}
        ),
    )
    try:
        meta_graph = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(path))
        model = LoadedModel(session, meta_graph)
    except tf.errors.OpError as error:
        session.close()
        raise from_tensorflow(error) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        # What TensorFlow's Python side raises for a damaged graph.
        session.close()
        raise ServingError(Code.INVALID_ARGUMENT, f"{type(error).__name__}: {_first_line(str(error))}") from error
    return model


def from_tensorflow(error: tf.errors.OpError, hint: str = "") -> ServingError:
    """TensorFlow's own code, and its message without the graph's stack; `hint` is what may explain it."""
    message = _first_line(error.message)
    return ServingError(BY_NUMBER[error.error_code], f"{message} ({hint})" if hint else message)


def _first_line(message: str) -> str:
    return message.split("\n", 1)[0].strip() or "no message"
