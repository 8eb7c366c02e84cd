"""The type of lists that steps of one stage hand on, so that Beam does not encode them to say how large they are."""

from __future__ import annotations

import pickle
from typing import Any

import apache_beam as beam


class Batch(list[Any]):
    """Events, changes or rows of one bundle; plain lists are taken for it, too."""


class BatchCoder(beam.coders.Coder):
    """Of batches. Beam samples how large elements are, by their coder: a batch's length stands for that."""

    def encode(self, value: Any) -> bytes:
        """See Beam; where a runner splits a stage."""
        return pickle.dumps(list(value), protocol=5)

    def decode(self, encoded: bytes) -> Any:
        """See Beam."""
        return pickle.loads(encoded)

    def estimate_size(self, value: Any) -> int:
        """See Beam."""
        return len(value)

    def is_deterministic(self) -> bool:
        """See Beam."""
        return False

    def to_type_hint(self) -> type:
        """See Beam."""
        return Batch


beam.coders.registry.register_coder(Batch, BatchCoder)
