"""TensorFlow Model Analysis over predictions that the models' own serving signatures gave."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from tensorflow_model_analysis import evaluators, extractors
from tensorflow_model_analysis.api import model_eval_lib
from tensorflow_model_analysis.extractors import slice_key_extractor
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.utils import update_eval_config_with_defaults

from components.measures import analysis_log_loss
from components.modelling.quiet import quiet

CANDIDATE, CHAMPION = tfma.CANDIDATE_KEY, tfma.BASELINE_KEY
WEIGHT = "weight"
BATCH = 4096

AUC, PR_AUC, LOG_LOSS, CALIBRATION = "auc", "auc_precision_recall", "log_loss", "calibration"
COUNT, MEAN_LABEL, MEAN_PREDICTION = "example_count", "mean_label", "mean_prediction"
_CLASSES = {
    COUNT: ("ExampleCount", ""),
    AUC: ("AUC", ""),
    PR_AUC: ("AUC", '"curve": "PR"'),
    LOG_LOSS: ("LogLoss", ""),
    CALIBRATION: ("Calibration", ""),
    MEAN_LABEL: ("MeanLabel", ""),
    MEAN_PREDICTION: ("MeanPrediction", ""),
}

Slice = tuple[tuple[str, str], ...]
"""Which rows: (column, value) pairs; () is all of them."""
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Analysis:
    """What was measured.

    Args:
      metrics: By model and slice, figures by name; NaN where there is none.
    """

    metrics: Mapping[str, Mapping[Slice, Metrics]]

    def overall(self, model: str) -> Metrics:
        """Figures of one model over all rows."""
        return self.metrics[model][()]


def analyse(
    labels: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    slices: Mapping[str, np.ndarray],
    folder: Path,
) -> Analysis:
    """Measures; TensorFlow Model Analysis's own files stay in `folder`.

    It decides nothing: it has no paired comparison, see `components.measures.comparison`.

    Args:
      labels: 0 or 1, [rows], both present.
      probabilities: By model, CANDIDATE and perhaps CHAMPION, each [rows].
      slices: Values by column, as text, each [rows].
      folder: An empty folder; `tfma.load_eval_result` reads it.

    Returns:
      Every figure by model and slice.
    """
    config = _config(probabilities, tuple(slices))
    with quiet("apache_beam", "absl", "tensorflow"), beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | beam.Create(list(_extracts(labels, probabilities, slices)), reshuffle=False)
            | model_eval_lib.ExtractAndEvaluate(
                extractors=[_sliced_already()],
                evaluators=[evaluators.MetricsPlotsAndValidationsEvaluator(eval_config=config)],
            )
            | model_eval_lib.WriteResults(
                writers=model_eval_lib.default_writers(output_path=str(folder), eval_config=config)
            )
        )
    with quiet("absl", "tensorflow"):
        # A model that was measured alone has no name in the files.
        names = {model: model if len(probabilities) > 1 else "" for model in probabilities}
        return Analysis({model: _read(folder, name) for model, name in names.items()})


def _config(probabilities: Mapping[str, np.ndarray], slices: tuple[str, ...]) -> config_pb2.EvalConfig:
    metrics = [
        config_pb2.MetricConfig(
            class_name=class_name,
            module=analysis_log_loss.__name__ if name == LOG_LOSS else "",
            config="{" + ", ".join(filter(None, (f'"name": "{name}"', extra))) + "}",
        )
        for name, (class_name, extra) in _CLASSES.items()
    ]
    models = [
        config_pb2.ModelSpec(name=model, example_weight_key=WEIGHT, is_baseline=model == CHAMPION)
        for model in probabilities
    ]
    config = config_pb2.EvalConfig(
        model_specs=models,
        slicing_specs=[config_pb2.SlicingSpec(), *(config_pb2.SlicingSpec(feature_keys=[name]) for name in slices)],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=metrics,
                model_names=list(probabilities) if len(probabilities) > 1 else [],
                example_weights=config_pb2.ExampleWeightOptions(weighted=True),
            )
        ],
    )
    return update_eval_config_with_defaults(config, has_baseline=CHAMPION in probabilities)


def _extracts(
    labels: np.ndarray, probabilities: Mapping[str, np.ndarray], slices: Mapping[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Rows as TensorFlow Model Analysis's extracts, told apart by slice.

    The rows of a slice travel as few examples with many labels each, which the metrics flatten: the figures are those
    of one example for each row, at a tenth of the cost. The weight of each row is 1, so that rows are counted.
    """
    places: dict[Slice, np.ndarray] = {(): np.arange(len(labels))}
    for column, values in slices.items():
        for value in np.unique(values):
            places[((column, str(value)),)] = np.flatnonzero(values == value)
    keyed = len(probabilities) > 1
    for key, rows in places.items():
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            predictions = {model: values[part].astype(np.float64) for model, values in probabilities.items()}
            label, weight = labels[part].astype(np.float64), np.ones(len(part))
            yield {
                tfma.SLICE_KEY_TYPES_KEY: [key],
                tfma.LABELS_KEY: dict.fromkeys(predictions, label) if keyed else label,
                tfma.PREDICTIONS_KEY: predictions if keyed else predictions[CANDIDATE],
                tfma.EXAMPLE_WEIGHTS_KEY: dict.fromkeys(predictions, weight) if keyed else weight,
            }


def _sliced_already() -> extractors.Extractor:
    """Stands where slice keys are made: they are there already."""
    return extractors.Extractor(
        stage_name=slice_key_extractor.SLICE_KEY_EXTRACTOR_STAGE_NAME, ptransform=beam.Map(lambda extracts: extracts)
    )


def _read(folder: Path, name: str) -> dict[Slice, Metrics]:
    result = tfma.load_eval_result(str(folder), model_name=name or None)
    told: dict[Slice, Metrics] = {}
    for key, by_output in result.slicing_metrics:
        figures = {metric: float(value.get("doubleValue", math.nan)) for metric, value in by_output[""][""].items()}
        if figures[MEAN_LABEL] in (0, 1):
            # There is no curve of one class alone; TensorFlow Model Analysis says 0.
            figures |= {AUC: math.nan, PR_AUC: math.nan}
        told[tuple((column, str(value)) for column, value in key)] = figures
    return told
