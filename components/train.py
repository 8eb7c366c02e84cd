"""train: fits the pipeline's network on the examples and writes a SavedModel that takes raw feature values."""

import contextlib
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

import keras
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
from components.measures.scores import log_loss, roc_auc
from components.modelling import calibration, fitting, saved_model
from components.modelling.parts import Labelled, Parts
from components.modelling.quiet import quiet
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
    average: Parameter[float] = 0.99,
    patience: Parameter[int] = 2,
    seed: Parameter[int] = 0,
    strategy: Parameter[str] = "mirrored",
    refit: Parameter[str] = "judged",
    calibrate: Parameter[str] = "none",
) -> None:
    """Fits the pipeline's network on the split `train`, choosing the epoch on `validation`, and exports it.

    Vocabularies and normalisation are learned from the rows that are fitted, and live inside the SavedModel. Equal
    examples and settings give equal metrics. A retry of the same training goes on after the last whole epoch.

    A warm start takes over the network's weights alone: the optimizer, the calibration and the companion begin anew.

    Args:
      examples: Splits `train` and `validation`, of the schema's columns.
      model: The SavedModel; see docs/architecture.md for its signatures. Beside it the network's weights, for a later
        fit to start from.
      model_run: TensorBoard's logs and the training record.
      schema: Names the pipeline's `ExampleSchema`.
      model_fn: Names the pipeline's function `(schema, fitted, validation, chosen, seed) -> Parts`; see
        `components.modelling.parts`. `fitted` are the raw rows that are learned from and `validation` those that judge,
        both `Labelled`; there are none of the latter in a refit, or where the split is empty. `chosen` is in a refit
        what the parts before it chose on the validation rows, else empty. Equal arguments must give equal parts.
      start_from: A model whose weights every fit of this training starts from, or none. One that has kept none is
        warned of, and the training starts from scratch.
      epochs: Passes over the rows at most.
      warm_epochs: The same where it starts from another's weights, if that is fewer.
      batch_size: Rows in one step, over all devices together.
      learning_rate: The highest learning rate.
      weight_decay: AdamW's.
      average: Momentum of the moving average of the weights.
      patience: Epochs without a better validation loss before it ends.
      seed: Of everything random.
      strategy: "mirrored" (all GPUs, or the CPU), "mirrored_cpus" (the CPU in two), "one_device" or "tpu".
      refit: "judged" exports the model that the validation rows chose; "include_validation" makes a new one of train
        and validation rows together, for as many epochs as were found. Both know only what was before the interval.
      calibrate: "none", "scale" or "scale_and_shift": how the validation rows correct the probabilities.

    Raises:
      TerminalError: A split holds infinite numbers, the training rows have one label alone, or loss or weights are no
        longer finite.
    """
    check_choice("refit", refit, REFITS)
    interval = reading.interval_of(examples)
    settings = fitting.FitSettings(epochs, batch_size, learning_rate, weight_decay, average, patience, seed)
    start = _start((start_from or [None])[0])
    if start:
        settings = replace(settings, epochs=min(epochs, warm_epochs))
    training = _Training(load(schema), model_fn, settings, strategy, Path(model_run.uri), start)
    parts = {split: _read(Path(examples.uri), split, training.schema) for split in ("train", "validation")}
    _check_labels(parts["train"])
    for part in parts.values():
        _check_finite(part, training.schema)
    with quiet("absl", "tensorflow"):
        record = training.run(parts, refit, calibrate, model.uri)
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
class _Part:
    """One split as read."""

    name: str
    columns: reading.Columns
    labels: np.ndarray
    first: str
    last: str
    digest: str

    def __len__(self) -> int:
        return len(self.labels)

    def labelled(self) -> Labelled:
        return Labelled(self.columns, self.labels)

    def described(self) -> dict[str, Any]:
        share = float(self.labels.mean()) if len(self) else math.nan
        return {"rows": len(self), "first": self.first, "last": self.last, "label_share": share, "digest": self.digest}


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
    log.info("The network starts from the weights of the model in %s; its companion does not.", model.uri)
    return _Start(Weights.read(path), digest_of_file(path))


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

    def run(self, parts: dict[str, _Part], refit: str, calibrate: str, model_uri: str) -> dict[str, Any]:
        """Fits, calibrates, exports; answers the record."""
        started = time.monotonic()
        fitted, validation = parts["train"], parts["validation"] if len(parts["validation"]) else None
        if validation is None:
            log.warning("There are no validation rows: the last epoch is kept, and nothing is calibrated.")
        log.info(
            "Training on %d rows (%s to %s, %.1f %% positive), validating on %d, on %s.",
            *(len(fitted), fitted.first, fitted.last, 100 * fitted.labels.mean()),
            *(len(parts["validation"]), self._devices()),
        )
        made, network, progress = self._fit(fitted, validation, "judged")
        chosen = made.chosen
        scale, shift = 1.0, 0.0
        scores = {}
        if validation is not None:
            rows = self._rows(made, validation)
            probability = fitting.mixed(fitting.Predictor(network)(rows.inputs), rows.companion)
            scale, shift = calibration.fit(validation.labels, probability, calibrate)
            corrected = calibration.apply(probability, scale, shift)
            scores = {
                "log_loss": log_loss(validation.labels, corrected),
                "roc_auc": roc_auc(validation.labels, corrected),
                "log_loss_uncalibrated": log_loss(validation.labels, probability),
            }
        history = {"judged": progress.epochs}
        if refit == "include_validation" and validation is not None:
            fitted = _joined(fitted, validation)
            made, network, again = self._fit(fitted, None, "refit", stop_after=progress.best_epoch, chosen=chosen)
            history["refit"] = again.epochs
        saved_model.Served(self.schema, made, network, scale, shift).save(saved_model.serving_folder(model_uri))
        Weights.of(network, made.words).write(file_of(model_uri))
        seconds = time.monotonic() - started
        log.info("Kept epoch %d of %d; %.0f s in all.", progress.best_epoch, len(progress.epochs), seconds)
        return {
            "model_fn": self.model_fn,
            "settings": fitting.settings_as_record(self.settings),
            "refit": refit,
            "rows": {name: part.described() for name, part in parts.items()} | {"fitted": len(fitted)},
            "strategy": self.strategy_name,
            "devices": self._devices(),
            "warm_start": self._warm_start(),
            "best_epoch": progress.best_epoch,
            "chosen": dict(chosen),
            "epochs": history,
            "validation": scores,
            "calibration": {"kind": calibrate, "scale": scale, "shift": shift},
            "weights": int(network.count_params()),
            "seconds": round(seconds, 3),
            "versions": self._versions(),
        }

    def _fit(
        self,
        fitted: _Part,
        validation: _Part | None,
        phase: str,
        *,
        stop_after: int | None = None,
        chosen: Mapping[str, Any] = MappingProxyType({}),
    ) -> tuple[Parts, keras.Model, fitting.Progress]:
        """Fits anew; answers the parts and the network with the kept weights, all outside the strategy."""
        # Names that Keras counts up in a process decide the order of sums: count anew, so that no earlier fit matters.
        keras.utils.clear_session()
        keras.utils.set_random_seed(self.settings.seed)
        judges = validation.labelled() if validation else None
        parts = self.make_model(self.schema, fitted.labelled(), judges, chosen, self.settings.seed)
        checkpoint = self._checkpoint(phase, fitted, validation, stop_after, chosen)
        progress = fitting.fit(
            lambda: self._started(parts, phase),
            fitting.Rows(self._inputs(parts, fitted), fitted.labels),
            self._rows(parts, validation) if validation else None,
            self.settings,
            self.strategy,
            stop_after=stop_after,
            tensorboard=self.run_folder / TENSORBOARD / phase,
            checkpoint=checkpoint,
        )
        checkpoint.unlink(missing_ok=True)
        network = parts.build_network()
        network.set_weights(progress.best_weights)
        return parts, network, progress

    def _started(self, parts: Parts, phase: str) -> keras.Model:
        """A new network, with the weights that it starts from."""
        network = parts.build_network()
        if self.start:
            self.carried[phase] = self.start.weights.carry_into(network, parts.words)
            log.info("Start: %s.", self.carried[phase])
        return network

    def _warm_start(self) -> dict[str, Any] | None:
        if self.start is None:
            return None
        return {"digest": self.start.digest, **{phase: asdict(told) for phase, told in self.carried.items()}}

    def _inputs(self, parts: Parts, part: _Part) -> Any:
        preprocess = fitting.Batched(lambda raw: parts.preprocess(raw, training=False))
        return preprocess(saved_model.raw_tensors(part.columns, self.schema))

    def _rows(self, parts: Parts, part: _Part) -> fitting.Rows:
        """Rows to judge by, with what the companion says of them."""
        companion = None
        if parts.companion is not None:
            companion = fitting.Predictor(parts.companion)(saved_model.raw_tensors(part.columns, self.schema))
        return fitting.Rows(self._inputs(parts, part), part.labels, companion)

    def _checkpoint(
        self, phase: str, fitted: _Part, validation: _Part | None, stop_after: int | None, chosen: Mapping[str, Any]
    ) -> Path:
        """A file named by everything that decides the fit's course, so that only the same training goes on from it."""
        decides = {
            "phase": phase,
            "rows": [fitted.digest, validation.digest if validation else ""],
            "settings": fitting.settings_as_record(self.settings),
            "stop_after": stop_after,
            "start": self.start.digest if self.start else "",
            "chosen": dict(chosen),
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


def _read(folder: Path, split: str, schema: ExampleSchema) -> _Part:
    table = reading.read_table(folder, split, schema, (*schema.names, schema.label, schema.time))
    first, last = _time_span(table[schema.time])
    digest = sha256("".join(digest_of_file(f) for f in sorted((folder / f"Split-{split}").glob("*.parquet"))).encode())
    columns = reading.features(table, schema)
    return _Part(split, columns, reading.labels(table, schema), first, last, digest.hexdigest())


def _time_span(times: pa.ChunkedArray) -> tuple[str, str]:
    if not len(times):
        return "", ""
    span = pc.min_max(times).as_py()
    return str(span["min"]), str(span["max"])


def _joined(one: _Part, other: _Part) -> _Part:
    columns = reading.concatenated(one.columns, other.columns)
    labels = np.concatenate([one.labels, other.labels])
    name = f"{one.name}+{other.name}"
    return _Part(name, columns, labels, one.first, other.last, sha256((one.digest + other.digest).encode()).hexdigest())


def _check_labels(part: _Part) -> None:
    found = set(np.unique(part.labels).tolist())
    if found != {0, 1}:
        raise TerminalError(
            "There is nothing to learn from these training rows.",
            expected="rows with the label 0 and rows with the label 1",
            received=f"{len(part)} rows" + (f", all with the label {found.pop()}" if found else ""),
            remedy="Train on a longer history.",
        )


def _check_finite(part: _Part, schema: ExampleSchema) -> None:
    """Numbers may be missing (NaN), but not infinite: that is no value, and every sum that it enters is none."""
    counts = {name: int(np.isinf(part.columns[name]).sum()) for name in schema.of_kind("number")}
    infinite = [f"{name} in {count:,} of {len(part):,} rows" for name, count in counts.items() if count]
    if infinite:
        raise TerminalError(
            f"The split {part.name} holds infinite numbers.",
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
