"""What the deployed model says of flights, over REST or from batch predictions, to be compared with other models."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from airtight.errors import TerminalError, TransientError
from components.measures.scores import roc_auc
from components.modelling.model_server import NOT_FOUND, OK, ModelServer
from components.schema import PREDICTION
from pipelines.flight_delays import features
from pipelines.flight_delays.online_models import NAMES
from pipelines.flight_delays.prequential import Book

MODEL = "flight_delays"
DEPLOYED = "deployed"
_ROWS = 500
"""Of one request to the model server."""
_BUSY, _FAULTS_OF_THE_SERVER = 429, 500


class Served:
    """The model that a server answers with.

    Args:
      server: The server.
      model: The model's name.
      may_lack: Whether the model need not be there (yet): then nothing is said of the flights.
    """

    def __init__(self, server: ModelServer, model: str = MODEL, *, may_lack: bool = False) -> None:
        self._server, self._path, self._may_lack = server, f"/v1/models/{model}:predict", may_lack

    def __call__(self, rows: Sequence[dict[str, Any]]) -> list[float | None]:
        """Probabilities, in the order of the rows of features; None where there is no model.

        Raises:
          TerminalError: The model is not there, wants other features, or says something else than probabilities.
          TransientError: The server does not answer.
        """
        return [said for begin in range(0, len(rows), _ROWS) for said in self._ask(rows[begin : begin + _ROWS])]

    def _ask(self, rows: Sequence[dict[str, Any]]) -> list[float | None]:
        instances = [{name: _plain(value, kind) for name, kind, value in _inputs(row)} for row in rows]
        status, answer = self._server.request("POST", self._path, json.dumps({"instances": instances}).encode())
        if status == NOT_FOUND and self._may_lack:
            return [None] * len(rows)
        told = answer.get("predictions") if status == OK and isinstance(answer, Mapping) else None
        if isinstance(told, list) and len(told) == len(rows):
            numbers = [_scalar(said) for said in told]
            if None not in numbers:
                return numbers
        later = status == _BUSY or status >= _FAULTS_OF_THE_SERVER
        raise (TransientError if later else TerminalError)(
            "The deployed model did not answer.",
            expected=f"{len(rows)} probabilities",
            received=f"status {status}: {str(answer)[:300]}",
            remedy="See that the model server runs and serves this pipeline's model, or leave --server away.",
        )


def _inputs(row: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    return [(feature.name, feature.kind, row[feature.name]) for feature in features.SCHEMA.features]


def _plain(value: Any, kind: str) -> str | float:
    """As the model wants it; what is missing as in training."""
    if kind == "category":
        return "" if value is None else str(value)
    return math.nan if value is None else float(value)


def _scalar(said: Any) -> float | None:
    """A number, alone, in a list, or under the name of the output; None where it is none."""
    while isinstance(said, (Mapping, list)) and said:
        said = said.get(PREDICTION) if isinstance(said, Mapping) else said[0]
    return float(said) if isinstance(said, (int, float)) and math.isfinite(said) else None


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
