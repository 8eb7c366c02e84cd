"""Which of an evaluation's custom properties are metrics of the model, by its task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

METRICS = "metrics"
"""Custom property of an evaluation: JSON of the metrics that were measured, the first one foremost, each by the name of
the custom property that holds its value, with its title."""
SLICES = "slices.json"
"""File of an evaluation: figures by slice, as `components.measures.slices.record` gives them."""
ANSWERS = "answers_low", "answers_high"
"""Custom properties of an evaluation: the range in which nearly all of the model's answers lie, by its task."""
_BEFORE = {"roc_auc": "ROC AUC", "log_loss": "log loss"}
"""What evaluations had that do not name their metrics."""


def metrics_of(properties: Mapping[str, Any]) -> dict[str, str]:
    """Titles of an evaluation's metrics by the names of their custom properties, the first one foremost.

    Args:
      properties: The evaluation's custom properties.
    """
    titles = json.loads(properties[METRICS]) if METRICS in properties else _BEFORE
    return {name: title for name, title in titles.items() if name in properties}
