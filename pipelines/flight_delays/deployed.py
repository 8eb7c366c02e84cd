"""What the deployed model says of flights, over REST or from batch predictions, to be compared with other models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from airtight.errors import TerminalError
from components.measures.scores import roc_auc
from components.modelling.model_server import ModelServer
from components.modelling.prediction_client import PredictionClient
from components.schema import PREDICTION
from pipelines.flight_delays import features
from pipelines.flight_delays.online_models import NAMES
from pipelines.flight_delays.prequential import Book

MODEL = "flight_delays"
DEPLOYED = "deployed"


class Served(PredictionClient):
    """Probabilities of the model of flights; see `PredictionClient`."""

    def __init__(self, server: ModelServer, model: str = MODEL, *, may_lack: bool = False) -> None:
        super().__init__(server, model, features.SCHEMA, PREDICTION, may_lack=may_lack)


def scores(book: Book, predictions: Path | None = None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The answers, and what each model said of the flights, NaN where it was not asked.

    Args:
      book: Where the answers are.
      predictions: Folder of batch predictions: they count where the deployed model was not asked.

    Raises:
      TerminalError: The folder has none.
    """
    told = book.answers()
    said = {name: told[name] for name in (*NAMES, DEPLOYED)}
    if predictions is not None:
        known = batch_predictions(predictions)
        other = np.array([known.get(flight_id, np.nan) for flight_id in told["flight_id"]], np.float64)
        said[DEPLOYED] = np.where(np.isnan(said[DEPLOYED]), other, said[DEPLOYED])
    return told, said


def batch_predictions(folder: Path) -> dict[str, float]:
    """What batch predictions say, by flight_id.

    Raises:
      TerminalError: The folder has none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    known: dict[str, float] = {}
    try:
        for path in sorted(folder.rglob("*.parquet")):
            rows = pq.read_table(path, partitioning=None, columns=["flight_id", PREDICTION])
            known |= dict(zip(rows["flight_id"].to_pylist(), rows[PREDICTION].to_pylist(), strict=True))
        if known:
            return known
        received = "no rows"
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        received = str(error).splitlines()[0]
    raise TerminalError(
        f"There are no batch predictions in {folder}.",
        expected="Parquet files with flight_id and probability, as batch_predict writes them",
        received=received,
        remedy="Name the folder of such an artifact, or leave --predictions away.",
    )


def rates(told: Mapping[str, np.ndarray], said: Mapping[str, np.ndarray]) -> str:
    """ROC AUC of each model that answered, in words."""
    auc = {name: roc_auc(told["label"][~np.isnan(each)], each[~np.isnan(each)]) for name, each in said.items()}
    return ", ".join(f"{name} {value:.4f}" for name, value in auc.items() if not np.isnan(value))
