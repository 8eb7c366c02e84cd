"""TensorFlow Model Analysis over rows: a Beam pipeline reads them from a file, on any of Beam's runners.

It costs some 2 ms of CPU for each row of two models and three columns of slices, and twenty times that with intervals
(docs/adr/0031-model-analysis-reads-a-sample-of-rows.md). So it measures a sample here, and all rows where a cluster
does. Gates and report do not rest on it: `components.measures.comparison`, `components.measures.slices`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_model_analysis as tfma
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from tensorflow_model_analysis import evaluators, extractors
from tensorflow_model_analysis.api import model_eval_lib
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.utils import update_eval_config_with_defaults

from components.measures.evaluation_rows import EvaluationRows
from components.measures.slices import CHAMPION
from components.modelling.log_levels import quiet
from components.tasks import Task

ROWS = "rows.parquet"
"""The file of what is measured: columns of slices, `label`, `weight` where there is one, and one for each model."""
LABEL, WEIGHT, OF_SLICE = "label", "weight", "slice_"
FLINK = "flink"
"""In place of arguments: the Flink session cluster that AIRTIGHT_FLINK names, this process doing its Python."""
_ROW_GROUP = 1 << 16


def beam_arguments(text: str) -> list[str]:
    """Runner and options of Beam of a parameter's text: as a command line has them, FLINK, or "" for its local runner.

    Whatever follows FLINK is added, such as "flink --parallelism=4".
    """
    first, *others = shlex.split(text) or [""]
    if first != FLINK:
        return [first, *others] if first else []
    from streaming.engine import addresses

    endpoint = f"--job_endpoint={addresses.job_server()}"
    return ["--runner=PortableRunner", endpoint, "--environment_type=LOOPBACK", "--job_server_timeout=60", *others]


def analyse(
    rows: EvaluationRows,
    predictions: Mapping[str, np.ndarray],
    folder: Path,
    most_rows: int,
    beam_pipeline_args: Sequence[str] = (),
    intervals: bool = False,
) -> None:
    """Measures; TensorFlow Model Analysis's own files stay in `folder`, where `tfma.load_eval_result` reads them.

    Args:
      rows: What was predicted.
      predictions: By model, the candidate and perhaps the champion, each [rows] or [rows, outputs].
      folder: An empty folder, which Beam's workers can reach.
      most_rows: Of more rows, evenly many of all times are measured.
      beam_pipeline_args: Runner and options, as Beam's command line has them; none for Beam's local runner.
      intervals: Whether to add its own confidence intervals, by a Poisson bootstrap of rows, which takes them for
        independent of each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(_sample(rows, predictions, most_rows), folder / ROWS, row_group_size=_ROW_GROUP, compression="zstd")
    config = _config(rows, tuple(predictions), intervals)
    options = PipelineOptions(list(beam_pipeline_args)) if beam_pipeline_args else None
    runner = None if beam_pipeline_args else FnApiRunner()
    with quiet("apache_beam", "absl", "tensorflow"), beam.Pipeline(runner=runner, options=options) as pipeline:
        _ = (
            pipeline
            | beam.io.ReadFromParquet(str(folder / ROWS))
            | beam.Map(_extracts, list(predictions))
            | model_eval_lib.ExtractAndEvaluate(
                extractors=[extractors.SliceKeyExtractor(eval_config=config)],
                evaluators=[evaluators.MetricsPlotsAndValidationsEvaluator(eval_config=config)],
            )
            | model_eval_lib.WriteResults(
                writers=model_eval_lib.default_writers(output_path=str(folder), eval_config=config)
            )
        )


def _sample(rows: EvaluationRows, predictions: Mapping[str, np.ndarray], most_rows: int) -> pa.Table:
    count = len(rows.rows.labels)
    taken = np.arange(count) if count <= most_rows else np.linspace(0, count - 1, most_rows).astype(np.int64)
    columns = {
        OF_SLICE + name: pa.DictionaryArray.from_arrays(values.codes[taken], list(values.names)).cast(pa.string())
        for name, values in rows.slices.items()
    }
    columns[LABEL] = pa.array(rows.rows.labels[taken])
    if rows.rows.weights is not None:
        columns[WEIGHT] = pa.array(rows.rows.weights[taken])
    for model, values in predictions.items():
        analysed = rows.task.analysed(values[taken]).astype(np.float32)
        columns[model] = pa.array(analysed if analysed.ndim == 1 else list(analysed))
    return pa.table(columns)


def _extracts(row: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    """One row as TensorFlow Model Analysis's extracts; with two models, by model."""
    of_slices = {name.removeprefix(OF_SLICE): np.array([row[name]]) for name in row if name.startswith(OF_SLICE)}
    extracts: dict[str, Any] = {tfma.FEATURES_KEY: of_slices}
    label, weight = np.array([row[LABEL]]), np.array([row.get(WEIGHT, 1.0)])
    predictions = {model: np.atleast_1d(np.asarray(row[model])) for model in models}
    keyed = len(models) > 1
    extracts[tfma.LABELS_KEY] = dict.fromkeys(models, label) if keyed else label
    extracts[tfma.PREDICTIONS_KEY] = predictions if keyed else predictions[models[0]]
    if WEIGHT in row:
        extracts[tfma.EXAMPLE_WEIGHTS_KEY] = dict.fromkeys(models, weight) if keyed else weight
    return extracts


def _config(rows: EvaluationRows, models: Sequence[str], intervals: bool) -> config_pb2.EvalConfig:
    weighted = rows.rows.weights is not None
    # Not to weigh is another thing for it than to say nothing of weights, and its reader finds no such metrics.
    weights = config_pb2.ExampleWeightOptions(weighted=True) if weighted else None
    config = config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                name=model, is_baseline=model == CHAMPION, example_weight_key=WEIGHT if weighted else ""
            )
            for model in models
        ],
        slicing_specs=[
            config_pb2.SlicingSpec(),
            *(config_pb2.SlicingSpec(feature_keys=[name]) for name in rows.slices),
        ],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=_metrics(rows.task),
                model_names=list(models) if len(models) > 1 else [],
                example_weights=weights,
            )
        ],
    )
    if intervals:
        config.options.compute_confidence_intervals.value = True
    return update_eval_config_with_defaults(config, has_baseline=CHAMPION in models)


def _metrics(task: Task) -> list[config_pb2.MetricConfig]:
    metrics = {"example_count": ("ExampleCount", "")} | dict(task.analysis_metrics())
    return [
        config_pb2.MetricConfig(
            class_name=class_name, config="{" + ", ".join(filter(None, (f'"name": "{name}"', extra))) + "}"
        )
        for name, (class_name, extra) in metrics.items()
    ]
