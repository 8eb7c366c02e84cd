"""Covering and F1 of change points beside several annotators' (van den Burg and Williams, arXiv 2003.06222).

A change point is the place, from 0 on, of the first value of a new segment. river and ruptures have neither figure for
several annotators, so both are here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

MARGIN = 5
"""A change point that is so many values off is a hit still."""


def covering(annotations: Collection[Iterable[int]], changes: Iterable[int], length: int) -> float:
    """How well segments cover those of the annotators: the mean over annotators (Arbelaez et al. 2010).

    Each segment of an annotator counts by its length, and has the largest Jaccard index with one of the segments.

    Args:
      annotations: Change points of each annotator.
      changes: Those that are judged.
      length: Values of the series.
    """
    ours = _segments(changes, length)
    theirs = [_segments(marks, length) for marks in annotations]
    covered = sum(len(segment) * max(_jaccard(segment, other) for other in ours) for one in theirs for segment in one)
    return covered / length / len(theirs)


def f1(annotations: Collection[Iterable[int]], changes: Iterable[int], margin: int = MARGIN) -> float:
    """The harmonic mean of precision beside all annotators' change points and of the mean recall over annotators.

    The first value, 0, counts as a change point of all, so that nobody has none.

    Args:
      annotations: Change points of each annotator.
      changes: Those that are judged.
      margin: How far off a hit may be.
    """
    ours = {0, *changes}
    theirs = [{0, *marks} for marks in annotations]
    precision = _hits(set().union(*theirs), ours, margin) / len(ours)
    recall = sum(_hits(marks, ours, margin) / len(marks) for marks in theirs) / len(theirs)
    return 2 * precision * recall / (precision + recall)


def _hits(marks: Collection[int], changes: Collection[int], margin: int) -> int:
    """How many marks have a change of their own within the margin; each in turn takes the nearest that is left."""
    left, hits = set(changes), 0
    for mark in sorted(marks):
        nearest = min(left, key=lambda change: (abs(change - mark), change), default=None)
        if nearest is not None and abs(nearest - mark) <= margin:
            left.remove(nearest)
            hits += 1
    return hits


def _segments(changes: Iterable[int], length: int) -> Sequence[range]:
    edges = sorted({0, length, *(change for change in changes if 0 < change < length)})
    return [range(first, last) for first, last in pairwise(edges)]


def _jaccard(one: range, other: range) -> float:
    common = max(0, min(one.stop, other.stop) - max(one.start, other.start))
    return common / (len(one) + len(other) - common)
