"""What the served model predicts for a day's rows, in counts, as a part of the day's summary."""

from __future__ import annotations

from pathlib import Path

from components.data import examples as reading
from components.modelling.saved_model import Predictor
from components.schema import ExampleSchema
from components.watch.day_summary import Numbers

MOST_ROWS = 20_000
"""Of a day with more rows so many, spread evenly: a share of them is within one percent of that of all."""
MOST_OUTPUTS = 20
"""Numbers of a prediction, such as probabilities of classes, that are counted."""


def predicted(folder: Path, split: str, schema: ExampleSchema, model: Path) -> dict[str, Numbers]:
    """Predictions of rows, with labels or without, by the name of each number.

    Args:
      folder: Of the `Examples` artifact.
      split: Name of the split.
      schema: Of the examples.
      model: SavedModel of the served version.

    Raises:
      TerminalError: It cannot be loaded, wants a feature that the rows lack, or does not answer.
    """
    table = reading.spread_rows(folder, split, schema, MOST_ROWS, schema.names)
    if not table.num_rows:
        return {}
    answers = Predictor(model, schema)(reading.features(table, schema))
    columns = answers.reshape(len(answers), -1)[:, :MOST_OUTPUTS].T
    parts = schema.classes or tuple(map(str, schema.quantiles))
    counts = {}
    for number, values in enumerate(columns):
        part = "" if len(columns) == 1 else f" {parts[number] if len(parts) == len(columns) else number}"
        numbers = counts[f"predicted {schema.label}{part}"] = Numbers()
        numbers.add(values)
    return counts
