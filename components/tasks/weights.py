"""The weights of examples: 0 or more, checked wherever they come from."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from airtight.errors import TerminalError
from components.schema import ExampleSchema


def weights_of(table: pa.Table, schema: ExampleSchema) -> np.ndarray | None:
    """Weights of some examples, float64 [rows]; None where the schema names none.

    Raises:
      TerminalError: A weight is missing, not finite or below 0.
    """
    if not schema.weight:
        return None
    weights = table[schema.weight].cast(pa.float64()).fill_null(float("nan")).to_numpy()
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise TerminalError(
            f"The weight {schema.weight} has values that are no weight.",
            expected="a finite number of 0 or more in every row",
            received=[f"{weights[row]:g} in row {row}" for row in wrong[:5].tolist()],
            remedy="Correct the step that makes the examples.",
        )
    return weights
