"""What a served model answers to rows of raw features, over REST."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from airtight.errors import TerminalError, TransientError
from components.modelling.model_server import NOT_FOUND, OK, ModelServer
from components.schema import ExampleSchema

ROWS = 500
"""Of one request."""
_BUSY, _FAULTS_OF_THE_SERVER = 429, 500


class PredictionClient:
    """One number a row of a model that a server answers with.

    Args:
      server: The server.
      model: The model's name.
      schema: Its features, numbers and categories.
      output: The served output that holds the number.
      may_lack: Whether the model need not be there (yet): then nothing is answered.
    """

    def __init__(
        self, server: ModelServer, model: str, schema: ExampleSchema, output: str, *, may_lack: bool = False
    ) -> None:
        self._server, self._path, self._may_lack = server, f"/v1/models/{model}:predict", may_lack
        self._schema, self._output = schema, output

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """The numbers, in the order of the rows of features; None where there is no model.

        Raises:
          TerminalError: The model is not there, wants other features, or answers something else.
          TransientError: The server does not answer.
        """
        return [number for begin in range(0, len(rows), ROWS) for number in self._ask(rows[begin : begin + ROWS])]

    def _ask(self, rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
        instances = [{f.name: _plain(row[f.name], f.kind) for f in self._schema.features} for row in rows]
        status, answer = self._server.request("POST", self._path, json.dumps({"instances": instances}).encode())
        if status == NOT_FOUND and self._may_lack:
            return [None] * len(rows)
        predictions = answer.get("predictions") if status == OK and isinstance(answer, Mapping) else None
        if isinstance(predictions, list) and len(predictions) == len(rows):
            numbers = [self._number(prediction) for prediction in predictions]
            if None not in numbers:
                return numbers
        later = status == _BUSY or status >= _FAULTS_OF_THE_SERVER
        raise (TransientError if later else TerminalError)(
            "The deployed model did not answer.",
            expected=f"{self._output} of {len(rows)} rows",
            received=f"status {status}: {str(answer)[:300]}",
            remedy="See that the model server runs and serves this model, or do without it.",
        )

    def _number(self, prediction: Any) -> float | None:
        """A number, alone, in a list, or under the name of the output; None where it is none."""
        while isinstance(prediction, (Mapping, list)) and prediction:
            prediction = prediction.get(self._output) if isinstance(prediction, Mapping) else prediction[0]
        return float(prediction) if isinstance(prediction, (int, float)) and math.isfinite(prediction) else None


def _plain(value: Any, kind: str) -> str | float:
    """As the model wants it; what is missing as in training."""
    if kind == "category":
        return "" if value is None else str(value)
    return math.nan if value is None else float(value)
