"""The state of a fit between epochs, in a file, so that a retry goes on from there."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from airtight.files import new_file

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """What is known after some epochs; all that a resumed fit needs beside the network's and optimizer's variables.

    Args:
      epochs: One record for each epoch done: losses, other measures, seconds.
      best_epoch: Epoch whose validation loss is least, counted from 1; 0 before the first.
      best_loss: That loss, infinite before the first epoch.
      best_weights: The network's averaged weights after that epoch.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = float("inf")
    best_weights: list[np.ndarray] = field(default_factory=list)


class KeepState(keras.callbacks.Callback):
    """Keeps the whole state before each epoch, so that a retry goes on from there."""

    def __init__(self, path: Path, progress: Progress) -> None:
        super().__init__()
        self.path, self.progress = path, progress

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the state, all at once or not at all; before the first epoch there is none."""
        if not epoch:
            return
        state: dict[str, Any] = {f"variable_{i}": np.array(v) for i, v in enumerate(_variables(self.model))}
        state |= {f"best_{i}": w for i, w in enumerate(self.progress.best_weights)}
        record = {name: getattr(self.progress, name) for name in ("epochs", "best_epoch", "best_loss")}
        with new_file(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, record=np.array(json.dumps(record)), **state)


def restore(path: Path, network: keras.Model, progress: Progress) -> int:
    """Puts a kept state back.

    Args:
      path: The file; there need be none.
      network: Compiled, its optimizer built.
      progress: Gets what is known after the epochs that were done.

    Returns:
      The epoch to go on with, counted from 0.
    """
    if not path.exists():
        return 0
    with np.load(path, allow_pickle=False) as state:
        record = json.loads(str(state["record"]))
        for i, variable in enumerate(_variables(network)):
            variable.assign(state[f"variable_{i}"])
        progress.best_weights = [state[f"best_{i}"] for i in range(len(network.get_weights()))]
    for name, value in record.items():
        setattr(progress, name, value)
    log.info("Going on after epoch %d, from %s.", len(progress.epochs), path)
    return len(progress.epochs)


def _variables(network: keras.Model) -> list[Any]:
    """All state of a fit in a fixed order: weights, states of the seed generators, the optimizer's variables."""
    return [*network.variables, *network.optimizer.variables]
