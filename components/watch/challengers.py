"""Challengers: cheap models of what is known when a day begins, scored on the day's rows beside the served model."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf

from airtight.errors import TerminalError
from airtight.watch.history import ALL
from components.data import examples as reading
from components.data.example_frame import columns_of
from components.data.row_faults import naming_rows
from components.modelling import preprocessing, tabular
from components.modelling.boosted_trees import TreeSettings
from components.modelling.labelled_examples import LabelledExamples
from components.modelling.saved_model import Predictor
from components.schema import ExampleSchema
from components.tasks import Task, task_of
from components.tasks.task import Metric

log = logging.getLogger(__name__)

FILE = "losses.json"
"""In a `ChallengerReport`."""
TREES = TreeSettings(unwatched=60, rows=1_000_000, parameters={"learning_rate": 0.1, "num_leaves": 15})
"""Few small trees: seconds. What they lose more than the served model while that is fresh is taken off as chance."""
LEAST_HISTORY = 200
"""Labelled rows with fewer of which no challenger is fitted."""
_COMPARED = "compared"


@dataclass(frozen=True)
class Losses:
    """Mean losses of models on the same rows.

    Args:
      rows: Labelled rows of the day; 0 where nothing is compared.
      unit: Title of the loss.
      served: Of the served model; 0 without rows.
      challengers: By the length of their history in days, of those that could be fitted.
      former: Of the model that served before; None where there is none.
    """

    rows: int
    unit: str
    served: float = 0.0
    challengers: dict[int, float] = field(default_factory=dict)
    former: float | None = None


def compare(
    examples: Path,
    schema: ExampleSchema,
    start: datetime,
    lengths: Sequence[int],
    served: Path | None,
    former: Path | None = None,
) -> Losses:
    """Fits challengers on the split `train`, and scores all models on the labelled rows of the split `day`.

    Args:
      examples: Folder of the examples.
      schema: Of the examples.
      start: The day's first instant.
      lengths: Histories to learn from, in days; ALL is all of it.
      served: SavedModel of the served version; None where none serves, and nothing is compared.
      former: SavedModel of the version that served before.

    Raises:
      TerminalError: A model cannot be loaded or wants other features, or its answers are none.
    """
    task = task_of(schema)
    loss = loss_of(task)
    with tempfile.TemporaryDirectory(prefix="challengers-") as scratch:
        folder = Path(scratch)
        compared = _copied(examples, reading.DAY, folder, _COMPARED, schema, lambda table: _labelled(table, schema))
        rows = LabelledExamples(folder, [_COMPARED], schema)
        if served is None or not compared:
            return Losses(0, loss.title)
        labels, weights = _labels(rows)
        challengers = {}
        for length in lengths:
            history = _history(examples, folder, schema, start, length)
            answers = fitted_answers(schema, history, rows)
            if answers is None:
                log.warning("Nothing can be learned from the %d rows of %s.", len(history), _in_words(length))
                continue
            challengers[length] = _value(loss, task, labels, answers, weights, _in_words(length))
        of_served, of_former = (
            _value(loss, task, labels, _answers(model, rows), weights, str(model)) if model else None
            for model in (served, former)
        )
    assert of_served is not None
    return Losses(len(labels), loss.title, of_served, challengers, of_former)


def loss_of(task: Task) -> Metric:
    """The first of a task's metrics that is a loss; of several labels it is the first label's.

    Raises:
      TerminalError: It has none.
    """
    for metric in task.metrics.values():
        if not metric.higher_is_better:
            return metric
    raise TerminalError(
        "Models of this task cannot be compared day by day.",
        expected="a metric of which less is better",
        received=", ".join(task.metrics),
        remedy="Give the task a metric that is a mean of losses.",
    )


def fitted_answers(schema: ExampleSchema, history: LabelledExamples, rows: LabelledExamples) -> np.ndarray | None:
    """What trees that learn from a history predict of rows, [rows] or [rows, outputs]; None of too few, or one label.

    Args:
      schema: Of the examples.
      history: Rows to learn from.
      rows: Rows to predict.
    """
    if len(history) < LEAST_HISTORY:
        return None
    labels = history.statistics.labels
    if any(label.lowest == label.highest for label in labels.values()):
        return None
    head = task_of(schema).head.fitted_to(labels)
    spec = tabular.build(schema, history, None, {}, 0, tabular.Settings(network=None, trees=TREES))
    answers = preprocessing.validation(spec, head, rows).ensemble_member
    return np.asarray(head.calibrated(tf.constant(answers), {}), np.float64)


def _history(examples: Path, folder: Path, schema: ExampleSchema, start: datetime, length: int) -> LabelledExamples:
    if length == ALL:
        return LabelledExamples(examples, [reading.HISTORY], schema)
    name, since = f"last_{length}", pa.scalar(start - timedelta(days=length), pa.timestamp("us", "UTC"))
    _copied(examples, reading.HISTORY, folder, name, schema, lambda table: pc.greater_equal(table[schema.time], since))
    return LabelledExamples(folder, [name], schema)


def _copied(
    examples: Path,
    split: str,
    folder: Path,
    name: str,
    schema: ExampleSchema,
    keeps: Callable[[pa.Table], pa.ChunkedArray],
) -> int:
    """Writes the rows of a split that are kept as another split; answers how many."""
    columns = columns_of(schema, labelled=True)
    path = folder / f"Split-{name}" / "examples.parquet"
    path.parent.mkdir()
    rows = 0
    with pq.ParquetWriter(path, columns) as writer:
        for table in reading.batches(examples, split, schema, columns.names):
            kept = table.filter(keeps(table)).replace_schema_metadata(None).cast(columns)
            rows += kept.num_rows
            writer.write_table(kept)
    return rows


def _labelled(table: pa.Table, schema: ExampleSchema) -> pa.ChunkedArray:
    """Whether all labels of a row are known."""
    return reduce(pc.and_, [table[name].is_valid() for name in schema.labels])


def _labels(rows: LabelledExamples) -> tuple[np.ndarray, np.ndarray | None]:
    pieces = list(rows.pieces(()))
    weights = [piece.weights for piece in pieces if piece.weights is not None]
    return np.concatenate([piece.labels for piece in pieces]), np.concatenate(weights) if weights else None


def _answers(model: Path, rows: LabelledExamples) -> np.ndarray:
    predict, answers, start = Predictor(model, rows.schema), [], 0
    for table in rows.tables(rows.schema.names):
        with naming_rows(rows.folder, rows.splits, rows.schema, start):
            answers.append(predict(reading.features(table, rows.schema)))
        start += table.num_rows
    return np.concatenate(answers).astype(np.float64)


def _value(
    loss: Metric, task: Task, labels: np.ndarray, answers: np.ndarray, weights: np.ndarray | None, model: str
) -> float:
    if wrong := task.wrong_predictions(answers):
        raise TerminalError(
            f"A model answers what is no prediction: {model}.",
            expected=task.right_predictions,
            received=f"something else in {wrong} of {len(labels)} rows",
            remedy="Have another version served; its gates refuse such a model.",
        )
    return float(loss.value(labels, answers, weights))


def _in_words(length: int) -> str:
    return "all history" if length == ALL else f"the last {length} days"
