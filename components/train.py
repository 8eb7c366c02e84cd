"""train: fits the pipeline's network on the examples and writes a SavedModel that takes raw feature values."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

import keras
import numpy as np
import tensorflow as tf
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight import fingerprint
from airtight.errors import TerminalError
from airtight.files import digest_of_file, write_text
from airtight.home import Home
from airtight.import_string import load
from airtight.parameters import check_choice
from components.data import examples as reading
from components.modelling import fitting, raw_features, saved_model
from components.modelling.heads import Head, head_of
from components.modelling.labelled_examples import Labelled, LabelledExamples
from components.modelling.model_spec import ModelSpec
from components.modelling.quiet import quiet
from components.modelling.row_store import RowStore
from components.modelling.weights import Carried, Weights, file_of
from components.schema import ExampleSchema

log = logging.getLogger(__name__)

RECORD = "training.json"
"""The training record inside a `ModelRun`."""
TENSORBOARD = "tensorboard"
"""TensorBoard's logs inside a `ModelRun`."""
REFITS = ("judged", "include_validation")


@component
def train(
    examples: InputArtifact[standard_artifacts.Examples],
    model: OutputArtifact[standard_artifacts.Model],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    schema: Parameter[str],
    model_fn: Parameter[str],
    start_from: InputArtifact[List[standard_artifacts.Model]] = None,  # noqa: UP006
    epochs: Parameter[int] = 8,
    warm_epochs: Parameter[int] = 2,
    batch_size: Parameter[int] = 512,
    learning_rate: Parameter[float] = 4e-3,
    weight_decay: Parameter[float] = 1e-2,
    ema_momentum: Parameter[float] = 0.99,
    patience: Parameter[int] = 2,
    seed: Parameter[int] = 0,
    strategy: Parameter[str] = "mirrored",
    refit: Parameter[str] = "judged",
    calibrate: Parameter[str] = "none",
) -> None:
    """Fits the pipeline's network on the split `train`, choosing the epoch on `validation`, and exports it.

    Vocabularies and normalisation are learned from the rows that are fitted, and live inside the SavedModel. Equal
    examples and settings give equal metrics. A retry of the same training goes on after the last whole epoch.

    Rows are read in pieces. What is computed of them for the fit lies in the temporary folder (`TMPDIR`), some hundred
    bytes a row; in memory are a window of them, and labels and predictions of the validation rows.

    A warm start takes over the network's weights alone: optimizer, calibration and ensemble member begin anew.

    Args:
      examples: Splits `train` and `validation`, of the schema's columns.
      model: The SavedModel; see docs/architecture.md for its signatures. Beside it the network's weights, for a later
        fit to start from.
      model_run: TensorBoard's logs and the training record.
      schema: Names the pipeline's `ExampleSchema`.
      model_fn: Names the pipeline's function `(schema, fitted, validation, tuned, seed) -> ModelSpec`; see
        `components.modelling.model_spec`. `fitted` are the rows that are learned from and `validation` those that
        judge, both `LabelledExamples`; the latter is None in a refit, or where the split is empty. `tuned` is in a
        refit what the model before it tuned on the validation rows, else empty. Equal arguments must give equal models.
      start_from: A model whose weights every fit of this training starts from, or none. One that has kept none is
        warned of, and the training starts from scratch.
      epochs: Passes over the rows at most.
      warm_epochs: The same where it starts from another's weights, if that is fewer.
      batch_size: Rows in one step, over all devices together.
      learning_rate: The highest learning rate.
      weight_decay: AdamW's.
      ema_momentum: Of the moving average of the weights.
      patience: Epochs without a better validation loss before it ends.
      seed: Of everything random.
      strategy: "mirrored" (all GPUs, or the CPU), "mirrored_cpus" (the CPU in two), "one_device" or "tpu".
      refit: "judged" exports the model that the validation rows chose; "include_validation" makes a new one of train
        and validation rows together, for as many epochs as were found. Both know only what was before the interval.
      calibrate: How the validation rows correct the predictions: "none", for a probability "scale" or
        "scale_and_shift", for classes "temperature", for a regression "shift".

    Raises:
      TerminalError: A split holds infinite numbers, labels that are none or weights below 0, the training rows have one
        label alone, or loss or weights are no longer finite.
    """
    check_choice("refit", refit, REFITS)
    interval = reading.interval_of(examples)
    settings = fitting.FitSettings(epochs, batch_size, learning_rate, weight_decay, ema_momentum, patience, seed)
    start = _start((start_from or [None])[0])
    if start:
        settings = replace(settings, epochs=min(epochs, warm_epochs))
    training = _Training(load(schema), model_fn, settings, strategy, Path(model_run.uri), start)
    check_choice("calibrate", calibrate, training.head.calibrations)
    splits = {name: LabelledExamples(Path(examples.uri), [name], training.schema) for name in ("train", "validation")}
    _check_labels(splits["train"])
    for rows in splits.values():
        _check_finite(rows)
    with quiet("absl", "tensorflow"):
        record = training.run(splits["train"], splits["validation"], refit, calibrate, model.uri)
    record = {"interval": interval, "schema": schema, **record}
    write_text(Path(model_run.uri) / RECORD, json.dumps(_without_nan(record), indent=1, allow_nan=False))
    for artifact in (model, model_run):
        artifact.set_string_custom_property("interval_start", interval[0])
        artifact.set_string_custom_property("interval_end", interval[1])
        artifact.set_string_custom_property("refit", refit)
        artifact.set_int_custom_property("rows", record["rows"]["fitted"])
        artifact.set_int_custom_property("warm_start", int(bool(start)))
    log.info("The model lies in %s, its record in %s.", model.uri, Path(model_run.uri) / RECORD)


@dataclass(frozen=True)
class _Start:
    """What the fits start from."""

    weights: Weights
    digest: str


def _start(model: standard_artifacts.Model | None) -> _Start | None:
    if model is None:
        return None
    path = file_of(model.uri)
    if not path.is_file():
        log.warning("The model in %s has kept no weights to start from: this one starts from scratch.", model.uri)
        return None
    log.info("The network starts from the weights of the model in %s; its ensemble member does not.", model.uri)
    return _Start(Weights.read(path), digest_of_file(path))


@dataclass(frozen=True)
class _Fit:
    """What a fit comes to."""

    spec: ModelSpec
    head: Head
    network: keras.Model | None
    progress: fitting.Progress
    validation: fitting.Validation | None


class _Training:
    """One training, from read splits to a written SavedModel."""

    def __init__(
        self,
        schema: ExampleSchema,
        model_fn: str,
        settings: fitting.FitSettings,
        strategy: str,
        run: Path,
        start: _Start | None,
    ) -> None:
        self.schema, self.model_fn, self.settings, self.run_folder = schema, model_fn, settings, run
        self.head = head_of(schema)
        self.start, self.carried = start, dict[str, Carried]()
        # Before the first operation: afterwards neither the devices nor determinism can be chosen.
        tf.config.experimental.enable_op_determinism()
        with contextlib.suppress(
            RuntimeError
        ):  # TensorFlow was started before, by whoever calls this in their process.
            # Operations side by side use the cores; cut into pieces, ones as small as these cost more than they gain.
            tf.config.threading.set_intra_op_parallelism_threads(1)
        self.strategy = fitting.make_strategy(strategy)
        self.strategy_name = strategy
        self.make_model = load(model_fn)
        self.code, self.packages = fingerprint.closure([fingerprint.module_of(model_fn), fitting.__name__])

    def run(
        self, train: LabelledExamples, validation: LabelledExamples, refit: str, calibrate: str, model_uri: str
    ) -> dict[str, Any]:
        """Fits, calibrates, exports; answers the record."""
        started = time.monotonic()
        fitted, judges = train, validation if len(validation) else None
        if judges is None:
            log.warning("There are no validation rows: the last epoch is kept, and nothing is calibrated.")
        first, last = train.statistics.first, train.statistics.last
        log.info(
            "Training on %d rows (%s to %s, mean label %.4g), validating on %d, on %s.",
            *(len(train), first, last, train.statistics.label_mean, len(validation), self._devices()),
        )
        fit = self._fit(fitted, judges, "judged")
        tuned = fit.spec.tuned
        corrected: Mapping[str, Any] = {}
        scores = {}
        if fit.validation is not None:
            rows, network = fit.validation, None
            if fit.network is not None:
                network = fitting.Predictor(fit.network, fit.head)(rows.inputs)
            predictions = fit.head.mixed(network, rows.ensemble_member)
            corrected = fit.head.fit_calibration(rows.labels, predictions, rows.weights, calibrate)
            calibrated = np.asarray(fit.head.calibrated(tf.constant(predictions), corrected))
            scores = fit.head.scores(rows.labels, calibrated, rows.weights)
            uncalibrated = fit.head.scores(rows.labels, predictions, rows.weights)[fit.head.loss_name]
            scores[f"{fit.head.loss_name}_uncalibrated"] = uncalibrated
        best_epoch, history = fit.progress.best_epoch, {"judged": fit.progress.epochs}
        if refit == "include_validation" and judges is not None:
            fitted = train.joined(judges)
            fit = self._fit(fitted, None, "refit", stop_after=best_epoch, tuned=tuned)
            history["refit"] = fit.progress.epochs
        exported = saved_model.ExportModule(self.schema, fit.spec, fit.network, fit.head, corrected)
        exported.save(saved_model.serving_folder(model_uri))
        if fit.network is not None:
            Weights.of(fit.network, fit.spec.vocabulary).write(file_of(model_uri))
        seconds = time.monotonic() - started
        log.info("Kept epoch %d of %d; %.0f s in all.", best_epoch, len(history["judged"]), seconds)
        return {
            "model_fn": self.model_fn,
            "settings": fitting.settings_as_record(self.settings),
            "refit": refit,
            "rows": {rows.name: _described(rows) for rows in (train, validation)} | {"fitted": len(fitted)},
            "strategy": self.strategy_name,
            "devices": self._devices(),
            "warm_start": self._warm_start(),
            "best_epoch": best_epoch,
            "tuned": dict(tuned),
            "epochs": history,
            "validation": scores,
            "calibration": {"kind": calibrate, **corrected},
            "weights": int(fit.network.count_params()) if fit.network is not None else 0,
            "seconds": round(seconds, 3),
            "versions": self._versions(),
        }

    def _fit(
        self,
        fitted: LabelledExamples,
        validation: LabelledExamples | None,
        phase: str,
        *,
        stop_after: int | None = None,
        tuned: Mapping[str, Any] = MappingProxyType({}),
    ) -> _Fit:
        """Fits anew; answers the model and the network with the kept weights, all outside the strategy."""
        # Names that Keras counts up in a process decide the order of sums: count anew, so that no earlier fit matters.
        keras.utils.clear_session()
        keras.utils.set_random_seed(self.settings.seed)
        statistics = fitted.statistics
        head = self.head.fitted_to(statistics.label_mean, statistics.label_deviation)
        spec = self.make_model(self.schema, fitted, validation, tuned, self.settings.seed)
        judges = self._validation(spec, head, validation) if validation else None
        if spec.build_network is None:
            return _Fit(spec, head, None, fitting.Progress(), judges)
        checkpoint = self._checkpoint(phase, fitted, validation, stop_after, tuned)
        rows = self._preprocessed(spec, head, fitted)
        progress = fitting.fit(
            lambda: self._started(spec, phase),
            rows,
            judges,
            head,
            self.settings,
            self.strategy,
            stop_after=stop_after,
            tensorboard=self.run_folder / TENSORBOARD / phase,
            checkpoint=checkpoint,
        )
        rows.close()
        checkpoint.unlink(missing_ok=True)
        network = spec.build_network()
        network.set_weights(progress.best_weights)
        return _Fit(spec, head, network, progress, judges)

    def _started(self, spec: ModelSpec, phase: str) -> keras.Model:
        """A new network, with the weights that it starts from."""
        assert spec.build_network is not None
        network = spec.build_network()
        if self.start:
            self.carried[phase] = self.start.weights.carry_into(network, spec.vocabulary)
            log.info("Start: %s.", self.carried[phase])
        return network

    def _warm_start(self) -> dict[str, Any] | None:
        if self.start is None:
            return None
        return {"digest": self.start.digest, **{phase: asdict(carried) for phase, carried in self.carried.items()}}

    def _preprocessed(self, spec: ModelSpec, head: Head, examples: LabelledExamples) -> RowStore:
        """What the network learns from: (inputs, target), with the weights behind them where there are some."""
        store, preprocess, start = RowStore(), self._traced(spec.preprocess), 0
        for piece in examples.pieces():
            with self._naming(preprocess, piece, start, examples.name):
                inputs = preprocess(raw_features.tensors(piece.columns, self.schema.features))
            start += len(piece.labels)
            weights = () if piece.weights is None else (piece.weights.astype(np.float32),)
            store.append((inputs, head.targets(piece.labels)[:, None], *weights))
        return store.finish()

    def _validation(self, spec: ModelSpec, head: Head, examples: LabelledExamples) -> fitting.Validation:
        """Rows to judge by, with the ensemble member's predictions of them."""
        store, preprocess = RowStore(), self._traced(spec.preprocess)
        member = spec.ensemble_member
        predict = None if member is None else self._traced(lambda raw, **named: head.predictions(member(raw, **named)))
        labels, weights, predictions = [], [], []
        for piece in examples.pieces():
            raw = raw_features.tensors(piece.columns, self.schema.features)
            if spec.build_network is not None:
                store.append(preprocess(raw))
            labels.append(piece.labels)
            if piece.weights is not None:
                weights.append(piece.weights)
            if predict is not None:
                predictions.append(predict(raw).numpy().astype(np.float64))
        return fitting.Validation(
            store.finish(),
            np.concatenate(labels),
            np.concatenate(weights) if weights else None,
            np.concatenate(predictions) if predictions else None,
        )

    @contextlib.contextmanager
    def _naming(self, preprocess: Callable[[Any], Any], piece: Labelled, start: int, split: str) -> Iterator[None]:
        """Names the first row that a model cannot preprocess, such as one whose image is none."""
        try:
            yield
        except tf.errors.InvalidArgumentError as error:
            for row in range(len(piece.labels)):
                columns = {name: values[row : row + 1] for name, values in piece.columns.items()}
                try:
                    preprocess(raw_features.tensors(columns, self.schema.features))
                except tf.errors.InvalidArgumentError as reason:
                    raise TerminalError(
                        f"The row {start + row} of the split {split} cannot be preprocessed.",
                        expected="values of the schema's kinds",
                        received=str(reason.message).splitlines()[0],
                        remedy="Correct the step that makes the examples.",
                    ) from error
            raise

    def _traced(self, model: Callable[..., Any]) -> Callable[[Any], Any]:
        """A model of raw features, traced once for rows of any number."""
        specs = raw_features.specs(self.schema.features)
        return tf.function(lambda raw: model(raw, training=False), input_signature=[specs])

    def _checkpoint(
        self,
        phase: str,
        fitted: LabelledExamples,
        validation: LabelledExamples | None,
        stop_after: int | None,
        tuned: Mapping[str, Any],
    ) -> Path:
        """A file named by everything that decides the fit's course, so that only the same training goes on from it."""
        decides = {
            "phase": phase,
            "rows": [fitted.digest, validation.digest if validation else ""],
            "settings": fitting.settings_as_record(self.settings),
            "stop_after": stop_after,
            "start": self.start.digest if self.start else "",
            "tuned": dict(tuned),
            "model_fn": self.model_fn,
            "schema": repr(self.schema),
            "code": fingerprint.digests(self.code),
            "devices": self._devices(),
            "versions": self._versions(),
        }
        key = sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        return Home.current().path / "checkpoints" / f"{key}.npz"

    def _versions(self) -> dict[str, str]:
        return fingerprint.versions(self.packages)

    def _devices(self) -> str:
        return ", ".join(device.split("device:")[-1] for device in self.strategy.extended.worker_devices)


def _described(rows: LabelledExamples) -> dict[str, Any]:
    statistics = rows.statistics
    return {
        "rows": len(rows),
        "first": statistics.first,
        "last": statistics.last,
        "label_mean": statistics.label_mean,
        "digest": rows.digest,
    }


def _check_labels(rows: LabelledExamples) -> None:
    labels = rows.statistics.label_range
    if labels is None or labels[0] == labels[1]:
        raise TerminalError(
            "There is nothing to learn from these training rows.",
            expected="rows of different labels",
            received=f"{len(rows)} rows" + (f", all with the label {labels[0]:g}" if labels else ""),
            remedy="Train on a longer history.",
        )


def _check_finite(rows: LabelledExamples) -> None:
    """Numbers may be missing (NaN), but not infinite: that is no value, and every sum that it enters is none."""
    infinite = [f"{name} in {count:,} of {len(rows):,} rows" for name, count in rows.statistics.infinite.items()]
    if infinite:
        raise TerminalError(
            f"The split {rows.name} holds infinite numbers.",
            expected="finite numbers, and NaN where one is missing",
            received=infinite,
            remedy="Correct the step that makes the examples; `transform` refuses such numbers or makes them missing.",
        )


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a figure that does not exist is null."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
