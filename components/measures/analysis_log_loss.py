"""A metric for TensorFlow Model Analysis: log loss row by row, also where one of its examples holds many rows.

Its own BinaryCrossEntropy takes the mean within an example first, so rows would count by the company they travel in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.measures.scores import log_loss

Sums = tuple[float, float]
"""Sum of the losses of all rows, in nats, and their number."""


class LogLoss(metric_types.Metric):
    """Mean binary cross-entropy over rows, in nats.

    Args:
      name: The metric's name.
    """

    def __init__(self, name: str = "log_loss") -> None:
        super().__init__(metric_util.merge_per_key_computations(_computations), name=name)


def _computations(
    name: str = "",
    eval_config: Any = None,
    model_name: str = "",
    output_name: str = "",
    sub_key: metric_types.SubKey | None = None,
    aggregation_type: metric_types.AggregationType | None = None,
    class_weights: dict[int, float] | None = None,
    example_weighted: bool = False,
) -> metric_types.MetricComputations:
    key = metric_types.MetricKey(
        name=name, model_name=model_name, output_name=output_name, sub_key=sub_key, example_weighted=example_weighted
    )
    return [metric_types.MetricComputation([key], None, _Combiner(key, eval_config))]


class _Combiner(beam.CombineFn):
    def __init__(self, key: metric_types.MetricKey, eval_config: Any) -> None:
        self._key, self._eval_config = key, eval_config

    def create_accumulator(self) -> Sums:
        return 0.0, 0.0

    def add_input(self, accumulator: Sums, element: metric_types.StandardMetricInputs) -> Sums:
        total, rows = accumulator
        for label, prediction, _ in metric_util.to_label_prediction_example_weight(
            element,
            eval_config=self._eval_config,
            model_name=self._key.model_name,
            output_name=self._key.output_name,
            flatten=False,
        ):
            total += log_loss(label, prediction) * label.size
            rows += label.size
        return total, rows

    def merge_accumulators(self, accumulators: Iterable[Sums]) -> Sums:
        pairs = list(accumulators)
        return sum(total for total, _ in pairs), sum(rows for _, rows in pairs)

    def extract_output(self, accumulator: Sums) -> dict[metric_types.MetricKey, float]:
        return {self._key: float(np.divide(*accumulator))}


metric_types.register_metric(LogLoss)
