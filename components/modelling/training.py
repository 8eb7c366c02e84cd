"""One training: fits a model that a pipeline's function makes, calibrates it, and writes it as a SavedModel."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from airtight import fingerprint
from airtight.files import digest_of_file
from airtight.home import Home
from airtight.import_string import load
from components.modelling import fitting, preprocessing, saved_model
from components.modelling.fit_state import Progress
from components.modelling.head import Head
from components.modelling.labelled_examples import LabelledExamples
from components.modelling.model_spec import ModelSpec
from components.modelling.weights import Carried, Weights, file_of
from components.schema import ExampleSchema
from components.tasks import task_of

log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard"
"""TensorBoard's logs inside a `ModelRun`."""


@dataclass(frozen=True)
class Start:
    """What the fits start from.

    Args:
      weights: Of an earlier network.
      digest: Of their file.
    """

    weights: Weights
    digest: str

    @classmethod
    def of(cls, uri: str) -> Start | None:
        """The weights that a `Model` artifact kept; of one without any None, with a warning."""
        path = file_of(uri)
        if not path.is_file():
            log.warning("The model in %s has kept no weights to start from: this one starts from scratch.", uri)
            return None
        log.info("The network starts from the weights of the model in %s; its ensemble member does not.", uri)
        return cls(Weights.read(path), digest_of_file(path))


@dataclass(frozen=True)
class Fit:
    """What a fit comes to."""

    spec: ModelSpec
    head: Head
    network: keras.Model | None
    progress: Progress
    validation: fitting.Validation | None


class Training:
    """One training, from read splits to a written SavedModel."""

    def __init__(
        self,
        schema: ExampleSchema,
        model_fn: str,
        settings: fitting.FitSettings,
        strategy: str,
        run: Path,
        start: Start | None,
        *,
        deterministic: bool,
        threads: int,
    ) -> None:
        self.schema, self.model_fn, self.settings, self.run_folder = schema, model_fn, settings, run
        self.head = task_of(schema).head
        self.start, self.carried = start, dict[str, Carried]()
        self.deterministic, self.checkpoints = deterministic, list[Path]()
        # Before the first operation: afterwards neither the devices nor determinism can be chosen.
        if deterministic:
            tf.config.experimental.enable_op_determinism()
        with contextlib.suppress(RuntimeError):  # TensorFlow was started before, by the process that calls this.
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        self.strategy = fitting.make_strategy(strategy, deterministic)
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
            "Training on %d rows (%smean of %s), validating on %d, on %s.",
            *(len(train), f"{first} to {last}, " if first else "", _means(train)),
            *(len(validation), self._devices()),
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
        for checkpoint in self.checkpoints:
            checkpoint.unlink(missing_ok=True)
        seconds = time.monotonic() - started
        log.info("Kept epoch %d of %d; %.0f s in all.", best_epoch, len(history["judged"]), seconds)
        return {
            "model_fn": self.model_fn,
            "settings": asdict(self.settings),
            "refit": refit,
            "rows": {rows.name: _described(rows) for rows in (train, validation)}
            | {"fitted": len(fitted)}
            | ({} if fit.spec.ensemble_rows is None else {"ensemble_member": fit.spec.ensemble_rows}),
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
    ) -> Fit:
        """Fits anew; answers the model and the network with the kept weights, all outside the strategy."""
        # Names that Keras counts up in a process decide the order of sums: count anew, so that no earlier fit matters.
        keras.utils.clear_session()
        keras.utils.set_random_seed(self.settings.seed)
        statistics = fitted.statistics
        head = self.head.fitted_to(statistics.labels)
        spec = self.make_model(self.schema, fitted, validation, tuned, self.settings.seed)
        judges = preprocessing.validation(spec, head, validation) if validation else None
        if spec.build_network is None:
            return Fit(spec, head, None, Progress(), judges)
        checkpoint = self._checkpoint(phase, fitted, validation, stop_after, tuned)
        rows = preprocessing.preprocessed(spec, head, fitted)
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
        # Until the model is written: a retry of a refit repeats no more than an epoch of the fit before it.
        self.checkpoints.append(checkpoint)
        network = spec.build_network()
        network.set_weights(progress.best_weights)
        return Fit(spec, head, network, progress, judges)

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
            "settings": asdict(self.settings),
            "stop_after": stop_after,
            "start": self.start.digest if self.start else "",
            "tuned": dict(tuned),
            "model_fn": self.model_fn,
            "schema": repr(self.schema),
            "code": fingerprint.digests(self.code),
            "devices": self._devices(),
            "deterministic": self.deterministic,
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
        "label_mean": _mean(rows, rows.schema.label),
        "digest": rows.digest,
        **{f"{name}_mean": _mean(rows, name) for name in rows.schema.labels[1:]},
    }


def _mean(rows: LabelledExamples, label: str) -> float:
    statistics = rows.statistics.labels
    return statistics[label].mean if statistics else float("nan")


def _means(rows: LabelledExamples) -> str:
    return ", ".join(f"{name} {_mean(rows, name):.4g}" for name in rows.schema.labels)
