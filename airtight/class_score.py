"""The one number that stands for a row's probabilities of classes, where counts are of one number a row."""

from __future__ import annotations

from collections.abc import Sequence

SUM_TOLERANCE = 1e-3
"""How far from 1 probabilities may sum up, being float32."""
_BELOW_ONE = 1 - 1e-6


def class_score(probabilities: Sequence[float]) -> float | None:
    """(Place of the likeliest class + its probability) / classes, from 0 to 1; None of numbers that are none.

    Its distribution says which classes are answered and how surely.

    Args:
      probabilities: Of the classes, at least one finite number.
    """
    top = max(probabilities)
    if len(probabilities) < 2 or min(probabilities) < 0 or abs(sum(probabilities) - 1) > SUM_TOLERANCE:  # noqa: PLR2004
        return None
    return (probabilities.index(top) + min(top, _BELOW_ONE)) / len(probabilities)
