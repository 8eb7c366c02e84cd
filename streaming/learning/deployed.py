"""What the deployed model says of rows, over REST or from batch predictions, to be compared with other models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from airtight.errors import TerminalError
from components.modelling.model_server import ModelServer
from components.modelling.prediction_client import PredictionClient
from components.reports.online_learning import Figure
from streaming.learning.book import Book
from streaming.learning.declaration import Learning
from streaming.learning.models import NAMES

DEPLOYED = "deployed"


def served(learning: Learning, server: ModelServer, *, may_lack: bool = False) -> PredictionClient:
    """The deployed model behind a server; see `PredictionClient`."""
    return PredictionClient(server, learning.name, learning.schema, learning.output, may_lack=may_lack)


def scores(
    book: Book, learning: Learning, predictions: Path | None = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The answers, and what each model said of the rows, NaN where it was not asked.

    Args:
      book: Where the answers are.
      learning: The declaration.
      predictions: Folder of batch predictions: they count where the deployed model was not asked.

    Raises:
      TerminalError: The folder has none.
    """
    rows = book.answers()
    by_model = {name: rows[name] for name in (*NAMES, DEPLOYED)}
    if predictions is not None:
        known = batch_predictions(predictions, learning)
        other = np.array([known.get(name, np.nan) for name in rows["id"]], np.float64)
        by_model[DEPLOYED] = np.where(np.isnan(by_model[DEPLOYED]), other, by_model[DEPLOYED])
    return rows, by_model


def batch_predictions(folder: Path, learning: Learning) -> dict[str, float]:
    """What batch predictions say, by the schema's first key.

    Raises:
      TerminalError: The folder has none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    known: dict[str, float] = {}
    key, output = learning.schema.keys[0], learning.output
    try:
        for path in sorted(folder.rglob("*.parquet")):
            rows = pq.read_table(path, partitioning=None, columns=[key, output])
            known |= dict(zip(rows[key].to_pylist(), rows[output].to_pylist(), strict=True))
        if known:
            return known
        received = "no rows"
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        received = str(error).splitlines()[0]
    raise TerminalError(
        f"There are no batch predictions in {folder}.",
        expected=f"Parquet files with {key} and {output}, as batch_predict writes them",
        received=received,
        remedy="Name the folder of such an artifact, or leave --predictions away.",
    )


def rates(rows: Mapping[str, np.ndarray], by_model: Mapping[str, np.ndarray], figure: Figure) -> str:
    """The figure of each model that answered, in words."""
    values = {
        name: figure.value(rows["label"][~np.isnan(answers)], answers[~np.isnan(answers)])
        for name, answers in by_model.items()
    }
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items() if not np.isnan(value))
