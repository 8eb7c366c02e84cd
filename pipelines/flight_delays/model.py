"""The model: `components.modelling.tabular` with the settings that suit flights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.modelling import tabular
from components.modelling.boosted_trees import TreeSettings
from components.modelling.labelled_examples import LabelledExamples
from components.modelling.model_spec import ModelSpec
from components.schema import ExampleSchema

NETWORK = tabular.NetworkSettings(without=("temp", "dewp", "humid", "pressure"))
"""The network does not look at numbers that, over a few months, tell which day it is rather than what is going on:
validation months up to May are predicted better without them. The trees do. The sizes are `tabular`'s, which were
chosen on these months, see docs/benchmarks-quality.md."""
TREES = TreeSettings(
    parameters={
        "learning_rate": 0.04,
        "min_child_samples": 100,
        "feature_fraction": 0.6,
        "lambda_l2": 5,
        "cat_smooth": 50,
    }
)
"""Tuned for this data in the research that the project starts from; chosen without the test months."""


def build(
    schema: ExampleSchema,
    fitted: LabelledExamples,
    validation: LabelledExamples | None,
    tuned: Mapping[str, Any],
    seed: int,
) -> ModelSpec:
    """As `components.modelling.tabular.build`."""
    return tabular.build(schema, fitted, validation, tuned, seed, tabular.Settings(NETWORK, TREES))
