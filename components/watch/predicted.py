"""What the served model predicts for a day's rows, in counts, as a part of the day's summary."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.data import examples as reading
from components.data.row_faults import naming_rows
from components.modelling.saved_model import Predictor
from components.schema import ExampleSchema
from components.watch.day_summary import Numbers

MOST_ROWS = 20_000
"""Of a day with more rows about so many, spread evenly: a share of them is within one percent of that of all."""
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
    rows = reading.count(folder, split)
    if not rows:
        return {}
    predict, parts = Predictor(model, schema), schema.classes or tuple(map(str, schema.quantiles))
    counts: dict[str, Numbers] = {}
    step, first = -(-rows // MOST_ROWS), 0
    for table in reading.batches(folder, split, schema, schema.names):
        place = -first % step
        taken = table.take(np.arange(place, table.num_rows, step))
        start, first = first + place, first + table.num_rows
        if not taken.num_rows:
            continue
        with naming_rows(folder, (split,), schema, start, step):
            answers = predict(reading.features(taken, schema))
        columns = answers.reshape(len(answers), -1).T
        for number, values in enumerate(columns[:MOST_OUTPUTS]):
            part = "" if len(columns) == 1 else f" {parts[number] if len(parts) == len(columns) else number}"
            counts.setdefault(f"predicted {schema.label}{part}", Numbers()).add(values)
    return counts
