"""A trained model as a SavedModel that takes raw feature values, and calling one as a server does."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint
from tfx.utils import path_utils

from airtight.errors import AirtightError, TerminalError, TransientError
from airtight.files import digest_of_tree
from components.modelling import raw_features
from components.modelling.constant_folding import constant_folding
from components.modelling.head import Calibration, Head
from components.modelling.model_spec import ModelSpec
from components.modelling.scoring import of_row, reason_of
from components.schema import ExampleSchema
from components.tasks import task_of

BATCH = 8192
SIGNATURE, EXAMPLES_SIGNATURE = "serving_default", "serving_examples"
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


class ExportModule:
    """Raw features to predictions: preprocess, network, mean of the members and the ensemble member, calibration.

    Args:
      schema: Names and kinds of the features.
      spec: The model as the pipeline's function made it.
      network: Its network, fitted; None where the ensemble member answers alone.
      head: From logits to predictions and served outputs.
      calibration: The head's, as it fitted it.
    """

    def __init__(
        self,
        schema: ExampleSchema,
        spec: ModelSpec,
        network: keras.Model | None,
        head: Head,
        calibration: Calibration = MappingProxyType({}),
    ) -> None:
        self.schema, self.spec, self.network = schema, spec, network
        self.head, self.calibration = head, calibration

    def predictions(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Predictions, float32 [batch] or [batch, outputs], of raw features by name, each [batch, ...]."""
        network = ensemble_member = None
        if self.network is not None:
            inputs = self.spec.preprocess(features, training=False)
            network = self.head.predictions(self.network(inputs, training=False))
        if self.spec.ensemble_member is not None:
            ensemble_member = self.head.predictions(self.spec.ensemble_member(features, training=False))
        return self.head.calibrated(self.head.mixed(network, ensemble_member), self.calibration)

    def save(self, folder: Path) -> None:
        """Writes the SavedModel with the signatures of docs/architecture.md.

        Keras's archive tracks the very variables that the signatures read. Saved as a plain module, the file would
        restore copies of them: right in Python, uninitialized in a graph session, which is what model servers open.

        Args:
          folder: A folder that is not there yet or is empty.
        """
        parsers, head = raw_features.parsers(self.schema.features), self.head

        def serve(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return head.served(self.predictions(features))

        def serve_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            return head.served(self.predictions(tf.io.parse_example(examples, parsers)))

        def answers(outputs_of: Callable[[tf.Tensor], dict[str, tf.Tensor]]) -> Callable[..., dict[str, tf.Tensor]]:
            def answer_examples(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
                return outputs_of(self.predictions(tf.io.parse_example(inputs, parsers)))

            return answer_examples

        archive = _Archive()
        network = [] if self.network is None else [self.spec.preprocess, self.network]
        models = [*network, *([] if self.spec.ensemble_member is None else [self.spec.ensemble_member])]
        for model in models:
            archive.track(model)
        with constant_folding(*models):
            archive.add_endpoint(SIGNATURE, serve, input_signature=[raw_features.specs(self.schema.features)])
            examples = tf.TensorSpec([None], tf.string, name="examples")
            archive.add_endpoint(EXAMPLES_SIGNATURE, serve_examples, input_signature=[examples])
            for name, (_, outputs_of) in head.examples_signatures.items():
                inputs = tf.TensorSpec([None], tf.string, name="inputs")
                archive.add_endpoint(name, answers(outputs_of), input_signature=[inputs])
            archive.write_out(str(folder), verbose=False)
        _set_methods(folder, {name: method for name, (method, _) in head.examples_signatures.items()})
        _sign(folder)


class _Archive(type(keras.export.ExportArchive())):  # type: ignore[misc]  # Keras makes TensorFlow's own kind of it.
    """Keras's archive, with its variables in one order: a function tells them in the order of a set, which is chance.

    Two equal trainings then give equal bytes, and the second is no other version to push.
    """

    def _filter_and_track_resources(self) -> None:
        super()._filter_and_track_resources()
        trackable = self._tf_trackable
        trackable._all_variables = sorted(trackable._all_variables, key=lambda variable: variable.name)


def _set_methods(folder: Path, methods: Mapping[str, str]) -> None:
    """Names the signatures' methods as TensorFlow Serving's Classify and Regress want it; TensorFlow writes Predict."""
    path = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in saved.meta_graphs:
        for signature, method in methods.items():
            graph.signature_def[signature].method_name = method
    path.write_bytes(saved.SerializeToString(deterministic=True))
    # The fingerprint is one of the file as it is now.
    write_fingerprint(str(folder))


def _sign(folder: Path) -> None:
    """Gives the SavedModel's fingerprint an id made of its own content, in place of one drawn by chance."""
    path = folder / "fingerprint.pb"
    fingerprint = fingerprint_pb2.FingerprintDef.FromString(path.read_bytes())
    fingerprint.uuid = ""
    fingerprint.uuid = str(uuid.UUID(bytes=sha256(fingerprint.SerializeToString(deterministic=True)).digest()[:16]))
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


def inputs_of(folder: Path, schema: ExampleSchema) -> dict[str, str]:
    """What a SavedModel wants for its serving signature: kinds by feature, in the schema's order.

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
    signature = graphs[0].signature_def.get(SIGNATURE) if graphs else None
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
        received=reason_of(error),
        remedy="Retry the task; if it stays, look at the disk and the memory." if transient else "Train it again.",
    )


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
        kinds = inputs_of(folder, schema)
        self._features = [feature for feature in schema.features if feature.name in kinds]
        self._signature = self._model.signatures[SIGNATURE]

    def __call__(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the task's predictions, [rows] or [rows, outputs], of raw features by name, each [rows, ...].

        Features that the model does not want are ignored.

        Raises:
          TerminalError: The model fails on these rows (`RowFault` where one is to blame), or answers in another shape.
          TransientError: The machine failed, such as for want of memory.
        """
        rows = len(next(iter(features.values())))
        answers = []
        for start in range(0, max(rows, 1), BATCH):
            part = slice(start, min(start + BATCH, rows))
            try:
                answers.append(self._answer(features, part))
            except (tf.errors.OpError, TypeError, ValueError) as error:
                raise self._fault(error, features, part) from error
        predictions = np.concatenate(answers)
        if len(predictions) != rows:
            raise self._no_answer(f"answers of shape {list(predictions.shape)} to {rows} rows")
        return predictions

    def _fault(self, error: Exception, features: Mapping[str, np.ndarray], part: slice) -> AirtightError:
        """The fault of a part of the rows, all before which were answered."""
        if _is_transient(error):
            return TransientError(
                f"The model in {self._folder} did not answer.",
                expected=f"{', '.join(self._task.outputs)} for each row",
                received=reason_of(error),
                remedy="Retry the task; if it stays, look at the memory and the device.",
            )
        fault = self._no_answer(reason_of(error))
        if not isinstance(error, tf.errors.InvalidArgumentError):
            return fault
        return of_row(fault, lambda rows: self._answer(features, rows), part, answered=part.start > 0)

    def _no_answer(self, received: str) -> TerminalError:
        return TerminalError(
            f"The model in {self._folder} cannot answer for these examples.",
            expected=f"{', '.join(self._task.outputs)} for each row",
            received=received,
            remedy="Correct the rows: they must be of the schema that it was trained with.",
        )

    def _answer(self, features: Mapping[str, np.ndarray], part: slice) -> np.ndarray:
        raw = {feature.name: features[feature.name][part] for feature in self._features}
        return self._task.predictions(self._signature(**raw_features.tensors(raw, self._features)))
