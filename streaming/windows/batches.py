"""The type of lists that steps of one stage hand on, so that Beam does not encode them to say how large they are."""

from __future__ import annotations

from typing import Any

import apache_beam as beam


class Batch(list[Any]):
    """Events, changes or rows of one bundle; plain lists are taken for it, too."""


class BatchCoder(beam.coders.Coder):
    """Of batches. Beam samples how large elements are, by their coder: a batch's length stands for that."""

    def __init__(self) -> None:
        self._any = beam.coders.PickleCoder()

    def encode(self, value: Any) -> bytes:
        """See Beam; where a runner splits a stage."""
        return self._any.encode(value)

    def decode(self, encoded: bytes) -> Any:
        """See Beam."""
        return self._any.decode(encoded)

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
