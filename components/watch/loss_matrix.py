"""Losses of the models of many fits at every later period, by which any policy is replayed without fitting again.

A file is NumPy's .npz, without pickles:

    loss     float64 [lengths, fits, periods]  mean loss at a period of the model of a fit; NaN before it serves
    lengths  int64 [lengths]                   periods of history that the models learned from; 0 is all, and the first
    fit_at   int64 [fits]                      number of the first period that a fit can serve, rising from 0
    rows     int64 [periods]                   labelled rows of a period
    starts   str [periods]                     start of a period, ISO 8601
    unit     str                               of the loss, such as "log loss"
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from airtight.errors import TerminalError
from airtight.files import new_file
from airtight.watch.history import ALL


@dataclass(frozen=True)
class LossMatrix:
    """See the module.

    Args:
      loss: [lengths, fits, periods].
      lengths: [lengths].
      fit_at: [fits].
      rows: [periods].
      starts: [periods].
      unit: Of the loss.

    Raises:
      TerminalError: The arrays do not fit together, or a loss is missing.
    """

    loss: np.ndarray
    lengths: np.ndarray
    fit_at: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    unit: str

    def __post_init__(self) -> None:
        faults = list(self._faults())
        if faults:
            raise TerminalError(
                "That is no matrix of losses.",
                expected="the arrays of components/watch/loss_matrix.py",
                received=faults,
                remedy="Write it with LossMatrix.write.",
            )

    def _faults(self) -> list[str]:
        shape = (len(self.lengths), len(self.fit_at), len(self.rows))
        if self.loss.shape != shape or len(self.starts) != len(self.rows) or not self.loss.size:
            return [f"losses {self.loss.shape} of (lengths, fits, periods) {shape} and {len(self.starts)} starts"]
        faults = []
        if self.lengths[0] != ALL or len(set(self.lengths.tolist())) < len(self.lengths):
            faults.append(f"lengths {self.lengths.tolist()}")
        if self.fit_at[0] != 0 or (np.diff(self.fit_at) <= 0).any() or self.fit_at[-1] >= len(self.rows):
            faults.append(f"fits at {self.fit_at.tolist()}")
        if (self.rows < 1).any():
            faults.append(f"{int((self.rows < 1).sum())} periods without rows")
        if (missing := int((~np.isfinite(self.loss[:, self.serves])).sum()) if not faults else 0) > 0:
            faults.append(f"{missing} losses of models that could serve are missing or not finite")
        return faults

    @property
    def serves(self) -> np.ndarray:
        """Whether a fit can serve at a period, bool [fits, periods]."""
        return np.arange(len(self.rows)) >= self.fit_at[:, None]

    def newest(self, period: int) -> int:
        """Number of the last fit that can serve at a period: the challenger's."""
        return int(np.searchsorted(self.fit_at, period, side="right")) - 1

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        with new_file(path) as unfinished, unfinished.open("wb") as file:
            arrays: dict[str, Any] = {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}
            np.savez_compressed(file, **arrays)

    @classmethod
    def read(cls, path: Path) -> LossMatrix:
        """Reads a file.

        Raises:
          TerminalError: There is none, or it holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {field.name: file[field.name] for field in fields(cls)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise TerminalError(
                "The matrix of losses cannot be read.",
                expected="a .npz file as components/watch/loss_matrix.py describes it",
                received=f"{path}: {error}",
                remedy="Write one, such as by python -m benchmarks.loss_matrices.",
            ) from error
        return cls(**{**arrays, "unit": str(arrays["unit"])})
