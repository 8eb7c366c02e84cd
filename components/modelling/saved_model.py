"""A trained model as a SavedModel that takes raw feature values, and calling one as a server does."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2
from tfx.utils import path_utils

from airtight.errors import AirtightError, TerminalError, TransientError
from airtight.files import digest_of_tree
from components.modelling.calibration import CLIP
from components.modelling.fitting import mixed
from components.modelling.folding import folding
from components.modelling.parts import Parts
from components.schema import PREDICTION, ExampleSchema
from components.tasks import task_of

BATCH = 8192
_OF_THE_MODEL = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.UnimplementedError,
)
"""TensorFlow's errors that come from the model or the rows: of the machine, its memory or its disk come all others."""


def serving_folder(artifact_uri: str) -> Path:
    """Where a `Model` artifact holds its SavedModel."""
    return Path(path_utils.serving_model_dir(artifact_uri))


class Served:
    """Raw features to one probability: preprocess, network, mean of the members and the companion, calibration.

    Args:
      schema: Names and kinds of the features.
      parts: The model as the pipeline's function made it.
      network: Its network, fitted: logits [batch, members].
      scale: Calibration: the probability's logit is multiplied by it.
      shift: Calibration: and this is added.
    """

    def __init__(self, schema: ExampleSchema, parts: Parts, network: keras.Model, scale: float, shift: float) -> None:
        self.parts, self.network = parts, network
        self.scale, self.shift = scale, shift
        self._kinds = {feature.name: feature.kind for feature in schema.features}

    def probability(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """Probability that the label is 1, float32 [batch], of raw features by name, each [batch]."""
        mean = _mean(self.network(self.parts.preprocess(features, training=False), training=False))
        if self.parts.companion is not None:
            mean = mixed(mean, _mean(self.parts.companion(features, training=False)))
        mean = tf.clip_by_value(mean, CLIP, 1 - CLIP)
        return tf.sigmoid(self.scale * (tf.math.log(mean) - tf.math.log1p(-mean)) + self.shift)

    def save(self, folder: Path) -> None:
        """Writes the SavedModel with the two signatures of docs/architecture.md.

        Keras's archive tracks the very variables that the signatures read. Saved as a plain module, the file would
        restore copies of them: right in Python, uninitialized in a graph session, which is what model servers open.

        Args:
          folder: A folder that is not there yet or is empty.
        """
        types = {name: tf.string if kind == "category" else tf.float32 for name, kind in self._kinds.items()}
        missing = {name: "" if kind == "category" else float("nan") for name, kind in self._kinds.items()}
        parsed = {name: tf.io.FixedLenFeature([], types[name], missing[name]) for name in types}

        def serve(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {PREDICTION: self.probability(features)}

        def serve_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            return {PREDICTION: self.probability(tf.io.parse_example(examples, parsed))}

        archive = _Archive()
        models = [model for model in (self.parts.preprocess, self.network, self.parts.companion) if model is not None]
        for model in models:
            archive.track(model)
        rows = {name: tf.TensorSpec([None], type_, name=name) for name, type_ in types.items()}
        with folding(*models):
            archive.add_endpoint("serving_default", serve, input_signature=[rows])
            archive.add_endpoint(
                "serving_examples", serve_examples, input_signature=[tf.TensorSpec([None], tf.string, name="examples")]
            )
            archive.write_out(str(folder), verbose=False)
        _sign(folder)


class _Archive(type(keras.export.ExportArchive())):  # type: ignore[misc]  # Keras makes TensorFlow's own kind of it.
    """Keras's archive, with its variables in one order: a function tells them in the order of a set, which is chance.

    Two equal trainings then give equal bytes, and the second is no other version to push.
    """

    def _filter_and_track_resources(self) -> None:
        super()._filter_and_track_resources()
        trackable = self._tf_trackable
        trackable._all_variables = sorted(trackable._all_variables, key=lambda variable: variable.name)


def _sign(folder: Path) -> None:
    """Gives the SavedModel's fingerprint an id made of its own content, in place of one drawn by chance."""
    path = folder / "fingerprint.pb"
    fingerprint = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    fingerprint.uuid = ""
    fingerprint.uuid = str(uuid.UUID(bytes=sha256(fingerprint.SerializeToString(deterministic=True)).digest()[:16]))
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


def _mean(logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.sigmoid(logits), axis=-1)


def inputs_of(folder: Path, schema: ExampleSchema) -> dict[str, str]:
    """What a SavedModel wants for its serving signature: "category" or "number" by feature, in the schema's order.

    An older model may want fewer features than the schema has by now. The model is not loaded for that.

    Args:
      folder: The SavedModel.
      schema: The features that the caller has.

    Raises:
      TerminalError: It cannot be read, has no such signature, or wants a feature that the schema does not have.
      TransientError: The disk failed.
    """
    try:
        saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    except (OSError, DecodeError) as error:
        raise _not_loaded(folder, error) from error
    graphs = [graph for graph in saved.meta_graphs if tf.saved_model.SERVING in graph.meta_info_def.tags]
    signature = graphs[0].signature_def.get("serving_default") if graphs else None
    wanted = set(signature.inputs) if signature else set()
    kinds = {feature.name: feature.kind for feature in schema.features if feature.name in wanted}
    lacking, outputs = wanted - set(kinds), task_of(schema).outputs
    if signature is None or not wanted or lacking or not set(outputs) <= set(signature.outputs):
        raise TerminalError(
            f"The model in {folder} cannot answer for these examples.",
            expected=f"a signature serving_default of features in the schema, answering {', '.join(outputs)}",
            received=f"inputs that the schema lacks: {', '.join(sorted(lacking))}" if lacking else "another signature",
            remedy="Give it rows of the schema that it was trained with.",
        )
    return dict(kinds)


def _is_transient(error: Exception) -> bool:
    """Whether the next try may go well: the machine was at fault, not the model or its rows."""
    if isinstance(error, OSError):
        # TensorFlow's own complaint of a folder without a SavedModel has no errno.
        return error.errno not in {None, errno.ENOENT}
    # Of no kind at all is what TensorFlow says of an index of weights that it cannot parse.
    return isinstance(error, tf.errors.OpError) and type(error) not in {tf.errors.OpError, *_OF_THE_MODEL}


def _not_loaded(folder: Path, error: Exception) -> AirtightError:
    try:
        digest_of_tree(folder)
    except OSError as unreadable:
        # TensorFlow takes a file that the disk fails to give for one that is not there, or is damaged.
        error = unreadable
    transient = _is_transient(error)
    return (TransientError if transient else TerminalError)(
        f"The model in {folder} cannot be loaded.",
        expected="a SavedModel",
        received=_first_line(error),
        remedy="Retry the task; if it stays, look at the disk and the memory." if transient else "Train it again.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class Predictor:
    """A SavedModel, called through its serving signature.

    Args:
      folder: The SavedModel.
      schema: The features that the caller has.

    Raises:
      TerminalError: It cannot be loaded, has no such signature, or wants a feature that the schema does not have.
      TransientError: The disk or the memory failed, not the model.
    """

    def __init__(self, folder: Path, schema: ExampleSchema) -> None:
        try:
            self._model = tf.saved_model.load(str(folder))
        except (OSError, ValueError, IndexError, tf.errors.OpError) as error:
            raise _not_loaded(folder, error) from error
        self._folder, self._task = folder, task_of(schema)
        self._kinds = inputs_of(folder, schema)
        self._signature = self._model.signatures["serving_default"]

    def __call__(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the task's predictions, float32 [rows] or [rows, outputs], of raw features by name, each [rows].

        Features that the model does not want are ignored.

        Raises:
          TerminalError: The model fails on these rows, or answers in another shape.
          TransientError: The machine failed, such as for want of memory.
        """
        rows = len(next(iter(features.values())))
        try:
            answers = [self._answer(features, slice(start, start + BATCH)) for start in range(0, max(rows, 1), BATCH)]
        except (tf.errors.OpError, TypeError, ValueError) as error:
            if _is_transient(error):
                raise TransientError(
                    f"The model in {self._folder} did not answer.",
                    expected=f"{', '.join(self._task.outputs)} for each row",
                    received=_first_line(error),
                    remedy="Retry the task; if it stays, look at the memory and the device.",
                ) from error
            raise self._no_answer(_first_line(error)) from error
        predictions = np.concatenate(answers)
        if len(predictions) != rows:
            raise self._no_answer(f"answers of shape {list(predictions.shape)} to {rows} rows")
        return predictions

    def _no_answer(self, received: str) -> TerminalError:
        return TerminalError(
            f"The model in {self._folder} cannot answer for these examples.",
            expected=f"{', '.join(self._task.outputs)} for each row",
            received=received,
            remedy="Give it rows of the schema that it was trained with.",
        )

    def _answer(self, features: Mapping[str, np.ndarray], part: slice) -> np.ndarray:
        tensors = {
            name: tf.constant(features[name][part], tf.string if kind == "category" else tf.float32)
            for name, kind in self._kinds.items()
        }
        return self._task.predictions(self._signature(**tensors))


def raw_tensors(columns: Mapping[str, np.ndarray], schema: ExampleSchema) -> dict[str, tf.Tensor]:
    """Raw feature columns as the tensors that `preprocess` takes."""
    return {
        feature.name: tf.constant(columns[feature.name], tf.string if feature.kind == "category" else tf.float32)
        for feature in schema.features
    }
