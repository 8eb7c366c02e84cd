"""Fitting one Keras network under a distribution strategy: deterministic, judged after each epoch, able to resume."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from airtight.errors import TerminalError
from airtight.parameters import check_choice
from components.modelling import input_pipeline
from components.modelling.fit_state import KeepState, Progress, restore
from components.modelling.head import Head
from components.modelling.row_store import RowStore

log = logging.getLogger(__name__)

STRATEGIES = ("mirrored", "mirrored_cpus", "one_device", "tpu")


@dataclass(frozen=True)
class FitSettings:
    """How a network is fitted.

    Args:
      epochs: Passes over the rows at most; the learning rate falls along a cosine over all of them.
      batch_size: Rows in one step, over all devices together.
      learning_rate: The highest rate.
      weight_decay: AdamW's.
      ema_momentum: Of the moving average of the weights that is judged and kept.
      patience: Epochs without a better validation loss before it ends.
      seed: Of weights, order and dropout.
      warm_up: Epochs in which the rate rises to the highest.
      final_rate: Share of the highest rate towards which the cosine falls.
      beta_2: AdamW's.
      window_mb: MiB of rows that are in memory at once, and shuffled together.
    """

    epochs: int = 8
    batch_size: int = 512
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    ema_momentum: float = 0.99
    patience: int = 2
    seed: int = 0
    warm_up: float = 0.5
    final_rate: float = 0.02
    beta_2: float = 0.99
    window_mb: int = 128


@dataclass(frozen=True)
class Validation:
    """Rows that choose the epoch.

    Args:
      inputs: The network's inputs.
      labels: Encoded, [rows].
      weights: Of the rows, [rows]; None weighs all the same.
      ensemble_member: Its predictions, [rows] or [rows, outputs], with which the network's are mixed.
    """

    inputs: RowStore
    labels: np.ndarray
    weights: np.ndarray | None = None
    ensemble_member: np.ndarray | None = None


def make_strategy(name: str, deterministic: bool = True) -> tf.distribute.Strategy:
    """The distribution strategy of this name.

    Args:
      name: "mirrored" (all GPUs, or the CPU where there is none), "mirrored_cpus" (two logical CPU devices, which share
        the cores: slower, but as many devices behave), "one_device" or "tpu".
      deterministic: Whether gradients of several devices are summed in one order, by plain copies to one of them.

    Raises:
      TerminalError: Another name, or a TPU that is not there.
    """
    check_choice("strategy", name, STRATEGIES)
    if name in ("mirrored", "mirrored_cpus"):
        logical = _two_cpus() if name == "mirrored_cpus" else tf.config.list_logical_devices("GPU")
        devices = [device.name for device in logical or tf.config.list_logical_devices("CPU")]
        # By plain copies, the order of a sum never depends on a collective's schedule.
        reduce = tf.distribute.ReductionToOneDevice() if deterministic else None
        return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduce)
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy("GPU:0" if tf.config.list_physical_devices("GPU") else "CPU:0")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ.get("TPU_NAME", "local"))
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise TerminalError(
            "There is no TPU to train on.",
            expected="a TPU, named by TPU_NAME",
            received=str(error).splitlines()[0],
            remedy="Choose the strategy mirrored, or run on a machine with a TPU.",
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def fit(
    build: Callable[[], keras.Model],
    train: RowStore,
    validation: Validation | None,
    head: Head,
    settings: FitSettings,
    strategy: tf.distribute.Strategy,
    *,
    stop_after: int | None = None,
    tensorboard: Path | None = None,
    checkpoint: Path | None = None,
) -> Progress:
    """Fits a new network.

    Args:
      build: Builds the network; called inside the strategy's scope.
      train: Rows to learn from: (inputs, target [rows, 1]) or (inputs, target, weight [rows]).
      validation: Rows that choose the epoch; without them the last epoch is kept.
      head: Loss and predictions.
      settings: How.
      strategy: Where.
      stop_after: End after this epoch, with the learning rates of the whole schedule; for a refit.
      tensorboard: Folder for TensorBoard's logs.
      checkpoint: File that holds the state between epochs. If it is there, the fit goes on from it, and comes to the
        same weights as one that was not interrupted.

    Returns:
      The epochs, and the averaged weights of the best one.

    Raises:
      TerminalError: Too few rows, or a loss or weights that are no longer finite.
    """
    batch = _batch_size(len(train), settings.batch_size, strategy.num_replicas_in_sync)
    windows = input_pipeline.windows_of(train, batch, settings.window_mb << 20)
    steps = windows.steps
    keras.utils.set_random_seed(settings.seed)
    with strategy.scope():
        network = build()
        network.compile(optimizer=_optimizer(settings, steps), loss=HeadLoss(head), jit_compile=False)
        network.optimizer.build(network.trainable_variables)
    progress = Progress()
    first = restore(checkpoint, network, progress) if checkpoint else 0
    last = stop_after or settings.epochs
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    judge = _Judge(progress, validation, head, settings.patience, last)
    # Order matters: the averaged weights are in when an epoch is judged, and out again when the state is kept.
    callbacks: list[keras.callbacks.Callback] = [swap, judge]
    callbacks += [KeepState(checkpoint, progress)] if checkpoint else []
    callbacks += [keras.callbacks.TensorBoard(str(tensorboard), write_graph=False)] if tensorboard else []
    if not judge.done(first):
        make = partial(input_pipeline.batches, train, windows, settings.seed, first, last)
        data = input_pipeline.distributed(make, strategy)
        network.fit(
            data, epochs=last, initial_epoch=first, steps_per_epoch=steps, callbacks=callbacks, verbose=0, shuffle=False
        )
    return progress


class Predictor:
    """Predictions in pieces, traced once.

    Args:
      model: From a nest of tensors [batch, ...] to logits [batch, members, outputs].
      head: From these to predictions.
    """

    def __init__(self, model: keras.Model, head: Head) -> None:
        self._predict = tf.function(
            lambda inputs: head.predictions(model(inputs, training=False)), reduce_retracing=True
        )

    def __call__(self, pieces: Iterable[Any]) -> np.ndarray:
        """Predictions, float64 [rows] or [rows, outputs], of inputs in pieces, nests of arrays [piece, ...]."""
        return np.concatenate(
            [self._predict(tf.nest.map_structure(tf.convert_to_tensor, piece)).numpy() for piece in pieces]
        ).astype(np.float64)


class HeadLoss(keras.losses.Loss):
    """A head's loss as Keras wants it; as a plain function, labels and logits would be made of one rank."""

    def __init__(self, head: Head) -> None:
        super().__init__(name="loss")
        self.head = head

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Loss of each row, [batch]."""
        return self.head.loss(y_true, y_pred)


class _Judge(keras.callbacks.Callback):
    """After each epoch: scores the averaged weights, keeps the best, says so in one line, and ends when it is time."""

    def __init__(self, progress: Progress, validation: Validation | None, head: Head, patience: int, last: int) -> None:
        super().__init__()
        self.progress, self.validation, self.head = progress, validation, head
        self.patience, self.last = patience, last
        self.started = 0.0

    def done(self, epoch: int) -> bool:
        return epoch >= self.last or (
            self.validation is not None and epoch - self.progress.best_epoch >= self.patience > 0 and epoch > 0
        )

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.predict = Predictor(self.model, self.head)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs if logs is not None else {}
        figures = {"epoch": epoch + 1, "train_loss": float(logs["loss"])}
        self._check_finite("training loss", figures["train_loss"], epoch)
        weights = self.model.get_weights()
        self._check_finite(
            "sum of the weights", sum(float(np.sum(weight, dtype=np.float64)) for weight in weights), epoch
        )
        loss = float("nan")
        message = f"Epoch {epoch + 1} of at most {self.last}: training loss {figures['train_loss']:.4f}"
        if self.validation is not None:
            rows = self.validation
            predictions = self.head.mixed(self.predict(rows.inputs), rows.ensemble_member)
            scores = self.head.scores(rows.labels, predictions, rows.weights)
            loss = scores[self.head.loss_name]
            self._check_finite("validation loss", loss, epoch)
            figures |= {f"validation_{name}": value for name, value in scores.items()}
            logs |= {f"val_{name}": value for name, value in {**scores, "loss": loss}.items()}
            message += ", validation " + ", ".join(
                f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items()
            )
        figures["seconds"] = round(time.monotonic() - self.started, 3)
        better = self.validation is None or loss < self.progress.best_loss
        self.progress.epochs.append(figures)
        if better:
            self.progress.best_epoch, self.progress.best_loss = epoch + 1, loss
            self.progress.best_weights = [np.array(weight) for weight in weights]
        best = ", the best so far" if better and self.validation is not None else ""
        log.info("%s (%.1f s)%s", message, figures["seconds"], best)
        self.model.stop_training = self.done(epoch + 1)

    def _check_finite(self, name: str, value: float, epoch: int) -> None:
        if not np.isfinite(value):
            raise TerminalError(
                f"The {name} is no longer a number.",
                expected=f"a finite {name}",
                received=f"{value} in epoch {epoch + 1}",
                remedy="Lower the learning rate, and look at the examples for extreme values.",
            )


def _optimizer(settings: FitSettings, steps: int) -> keras.optimizers.Optimizer:
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=settings.epochs * steps,
        alpha=settings.final_rate,
        warmup_target=settings.learning_rate,
        warmup_steps=max(1, int(settings.warm_up * steps)),
    )
    return keras.optimizers.AdamW(
        rate,
        weight_decay=settings.weight_decay,
        beta_2=settings.beta_2,
        use_ema=True,
        ema_momentum=settings.ema_momentum,
    )


def _batch_size(rows: int, wanted: int, replicas: int) -> int:
    size = min(wanted, rows) // replicas * replicas
    if not size:
        raise TerminalError(
            "There are too few rows to train on.",
            expected=f"at least {replicas}, one for each device",
            received=str(rows),
            remedy="Train on a longer history.",
        )
    return size


def _two_cpus() -> list[tf.config.LogicalDevice]:
    """Two logical CPU devices, if TensorFlow has not yet been started in this process."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if not tf.config.get_logical_device_configuration(cpu):
        try:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        except RuntimeError:
            log.warning("TensorFlow was started before this node could split the CPU in two; it trains on one device.")
    return tf.config.list_logical_devices("CPU")
