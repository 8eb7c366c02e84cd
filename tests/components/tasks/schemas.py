"""A schema for each task, and data to go with it: nothing to do with any pipeline."""

from __future__ import annotations

import dataclasses

import numpy as np

from components.schema import ExampleSchema, Feature

BINARY = ExampleSchema(
    features=(
        Feature("colour", "category", "a colour"),
        Feature("size", "number", "a size", "m"),
        Feature("last", "number", "the label of the row before"),
    ),
    label="target",
    time="at",
    keys=("id",),
    slices=("colour",),
)
MULTICLASS = dataclasses.replace(BINARY, task="multiclass", classes=("low", "mid", "high"))
REGRESSION = dataclasses.replace(BINARY, task="regression")
QUANTILES = dataclasses.replace(REGRESSION, quantiles=(0.1, 0.5, 0.9))
WEIGHTED = dataclasses.replace(QUANTILES, weight="importance")
BY_LAST = dataclasses.replace(QUANTILES, baseline="last", baseline_as_is=True)


def probabilities(rng: np.random.Generator, rows: int, classes: int = 3) -> np.ndarray:
    """Of each row for each class, float32 [rows, classes]."""
    return rng.dirichlet(np.ones(classes), rows).astype(np.float32)
