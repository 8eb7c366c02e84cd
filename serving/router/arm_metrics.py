"""What a release's arms have answered: codes, latency, numbers, and how far two answers to one request differ.

Numbers are summed by request too, as a batch of similar rows tells no more than one of them does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from airtight.rollout.arm_metrics import BINS, FINEST_MS, FORMAT, GROWTH, KINDS, quantile

SIDES = ("stable", "candidate")
TOLERANCE = 1e-6
"""Numbers that differ by more count as differing."""
CELLS = 64
"""Groups of callers in split mode; their spread is that of callers."""
_LOG_GROWTH = math.log(GROWTH)
_SERVER_ERROR, _UNIMPLEMENTED, _CALLER_ERROR = 500, 501, 400
_NONE, _BELOW, _ABOVE = 0, 1, KINDS - 1


@dataclass
class Latency:
    """Durations in milliseconds, in buckets that grow by 4 %: a percentile is known to 2 %."""

    buckets: dict[int, int] = field(default_factory=dict)
    count: int = 0
    total: float = 0.0
    largest: float = 0.0

    def add(self, milliseconds: float) -> None:
        """Counts one."""
        bucket = math.ceil(math.log(max(milliseconds, FINEST_MS) / FINEST_MS) / _LOG_GROWTH)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1
        self.total += milliseconds
        self.largest = max(self.largest, milliseconds)

    def quantile(self, share: float) -> float | None:
        """The duration within which this share of all ended; None where there is none."""
        duration = quantile(self.buckets, share)
        return None if duration is None else min(duration, self.largest)

    def as_dict(self) -> dict[str, float | None]:
        """As the status tells it."""
        return {
            "mean": self.total / self.count if self.count else None,
            "p50": self.quantile(0.5),
            "p95": self.quantile(0.95),
            "p99": self.quantile(0.99),
            "max": self.largest if self.count else None,
        }


@dataclass
class RequestSums:
    """Of one value for each request: how many, their sum, and the sum of their squares."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        """Counts one request's."""
        self.count += 1
        self.total += value
        self.squares += value * value


@dataclass
class Numbers:
    """The numbers that were answered; the histogram counts those in 0..1 by 0.05.

    Args:
      count: Finite numbers.
      total: Their sum.
      histogram: Those in 0..1.
      skipped: Answers that were too large to be read.
      not_finite: Answers with a number that is not finite.
      kinds: As `airtight.rollout.arm_metrics.Arm` has it: sums over answers of shares of each answer's numbers.
      means: Of each answer's finite numbers.
    """

    count: int = 0
    total: float = 0.0
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)
    skipped: int = 0
    not_finite: int = 0
    kinds: list[float] = field(default_factory=lambda: [0.0] * KINDS)
    means: RequestSums = field(default_factory=RequestSums)

    def add(self, numbers: Sequence[float] | None) -> None:
        """Counts one answer's; None is an answer that holds no numbers."""
        finite = [number for number in numbers or () if math.isfinite(number)]
        if numbers is not None and len(finite) < len(numbers):
            self.not_finite += 1
        if not finite:
            self.kinds[_NONE] += 1
            return
        weight, histogram, kinds = 1 / len(finite), self.histogram, self.kinds
        for number in finite:
            if 0 <= number < 1:
                place = int(number * BINS)
                histogram[place] += 1
                kinds[place + 2] += weight
            elif number == 1:
                histogram[-1] += 1
                kinds[BINS + 1] += weight
            else:
                kinds[_BELOW if number < 0 else _ABOVE] += weight
        total = sum(finite)
        self.count += len(finite)
        self.total += total
        self.means.add(total * weight)

    def as_dict(self) -> dict[str, Any]:
        """As the status tells it."""
        return {
            "count": self.count,
            "mean": self.total / self.count if self.count else None,
            "histogram": list(self.histogram),
            "skipped": self.skipped,
            "not_finite": self.not_finite,
            "kinds": list(self.kinds),
            "means": asdict(self.means),
        }


def has_failed(code: int) -> bool:
    """Whether the server is to blame for an answer of this HTTP code."""
    return code >= _SERVER_ERROR and code != _UNIMPLEMENTED


def is_refused(code: int) -> bool:
    """Whether an answer of this HTTP code says that the request was not right."""
    return _CALLER_ERROR <= code < _SERVER_ERROR or code == _UNIMPLEMENTED


@dataclass
class Traffic:
    """Requests by their answers' HTTP codes; a gRPC status counts as the code that TensorFlow Serving maps it to."""

    codes: dict[str, int] = field(default_factory=dict)
    latency: Latency = field(default_factory=Latency)

    def add(self, code: int, milliseconds: float) -> None:
        """Counts one answer."""
        self.codes[str(code)] = self.codes.get(str(code), 0) + 1
        self.latency.add(milliseconds)

    def as_dict(self) -> dict[str, Any]:
        """As the status tells it."""
        codes = {int(code): count for code, count in self.codes.items()}
        return {
            "requests": sum(codes.values()),
            "failed": sum(count for code, count in codes.items() if has_failed(code)),
            "refused": sum(count for code, count in codes.items() if is_refused(code)),
            "codes": dict(sorted(self.codes.items())),
            "latency_ms": self.latency.as_dict(),
        }


@dataclass
class Arm:
    """One arm of a release.

    Args:
      traffic: Its answers.
      numbers: What it answered.
      unserved: Requests that were meant for it when no server had its version; they were answered by what is served.
      cells: In split mode the same again by groups of callers.
    """

    traffic: Traffic = field(default_factory=Traffic)
    numbers: Numbers = field(default_factory=Numbers)
    unserved: int = 0
    cells: dict[int, Arm] = field(default_factory=dict)

    def counted(self, cell: int | None) -> tuple[Arm, ...]:
        """All that a request counts for: the arm, and its callers' group where there is one."""
        if cell is None:
            return (self,)
        if cell not in self.cells:
            self.cells[cell] = Arm()
        return self, self.cells[cell]

    def as_dict(self, version: int) -> dict[str, Any]:
        """As the status tells it."""
        return {
            "version": version,
            **self.traffic.as_dict(),
            "latency_buckets": {str(bucket): n for bucket, n in sorted(self.traffic.latency.buckets.items())},
            "unserved": self.unserved,
            "answers": self.numbers.as_dict(),
            "cells": [arm.as_dict(version) for _, arm in sorted(self.cells.items())],
        }


@dataclass(frozen=True)
class Outcome:
    """What became of one request: the answer's code, its numbers where they were read, and how long it took."""

    code: int
    numbers: Sequence[float] | None
    milliseconds: float

    def kinds(self) -> set[str]:
        """What is bad about it: "failed", "refused" or "not_finite"."""
        return {
            name
            for name, holds in (
                ("failed", has_failed(self.code)),
                ("refused", is_refused(self.code)),
                ("not_finite", not all(map(math.isfinite, self.numbers or ()))),
            )
            if holds
        }


@dataclass
class Pairs:
    """Requests that both versions were asked, in shadow mode.

    Args:
      count: Those that both answered with numbers.
      differing: Those of which a number differs by more than `TOLERANCE`, or that have not as many numbers.
      largest: The largest difference of two numbers.
      total: Sum of all differences.
      numbers: How many numbers were compared.
      differences: Of each request, the mean difference.
      only_candidate: Requests by what was bad about the candidate's answer alone.
      only_stable: And about the stable version's alone.
      stable_latency: The stable version's, of the requests that the candidate was asked too.
      dropped: Requests that were not asked of the candidate too, because too many such were under way.
    """

    count: int = 0
    differing: int = 0
    largest: float = 0.0
    total: float = 0.0
    numbers: int = 0
    differences: RequestSums = field(default_factory=RequestSums)
    only_candidate: dict[str, int] = field(default_factory=dict)
    only_stable: dict[str, int] = field(default_factory=dict)
    stable_latency: Latency = field(default_factory=Latency)
    dropped: int = 0

    def add_outcomes(self, stable: Outcome, candidate: Outcome) -> None:
        """Compares what became of one request."""
        ours, theirs = stable.kinds(), candidate.kinds()
        for kinds, counted in ((theirs - ours, self.only_candidate), (ours - theirs, self.only_stable)):
            for kind in kinds:
                counted[kind] = counted.get(kind, 0) + 1
        self.stable_latency.add(stable.milliseconds)
        if stable.numbers is not None and candidate.numbers is not None:
            self.add(stable.numbers, candidate.numbers)

    def add(self, stable: Sequence[float], candidate: Sequence[float]) -> None:
        """Compares the numbers of the answers to one request."""
        self.count += 1
        apart = len(stable) != len(candidate)
        compared, total = 0, 0.0
        for left, right in zip(stable, candidate, strict=False):
            same = left == right or (math.isnan(left) and math.isnan(right))
            difference = 0.0 if same else abs(left - right)
            if math.isfinite(difference):
                compared += 1
                total += difference
                self.largest = max(self.largest, difference)
            apart |= not difference <= TOLERANCE
        self.differing += apart
        self.numbers += compared
        self.total += total
        if compared:
            self.differences.add(total / compared)

    def as_dict(self) -> dict[str, Any]:
        """As the status tells it."""
        return {
            "count": self.count,
            "differing": self.differing,
            "largest_difference": self.largest if self.numbers else None,
            "mean_difference": self.total / self.numbers if self.numbers else None,
            "differences": asdict(self.differences),
            "only_candidate": dict(self.only_candidate),
            "only_stable": dict(self.only_stable),
            "stable_latency_buckets": {str(bucket): n for bucket, n in sorted(self.stable_latency.buckets.items())},
            "dropped": self.dropped,
        }


@dataclass
class Counts:
    """All that is counted for one release."""

    stable: Arm = field(default_factory=Arm)
    candidate: Arm = field(default_factory=Arm)
    pairs: Pairs = field(default_factory=Pairs)
    format: int = FORMAT

    def side(self, name: str) -> Arm:
        """One of `SIDES`."""
        return self.stable if name == SIDES[0] else self.candidate

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> Counts:
        """From what `dataclasses.asdict` made of it, by way of JSON.

        Raises:
          KeyError, TypeError, ValueError, AttributeError: It is not that, or was counted by an older router.
        """
        if saved.get("format") != FORMAT:
            raise ValueError(f"counted in format {saved.get('format', 1)}, and this router counts in {FORMAT}")
        return cls(_arm(saved["stable"]), _arm(saved["candidate"]), _pairs(saved["pairs"]))


def _arm(saved: Mapping[str, Any]) -> Arm:
    codes = {str(int(code)): int(count) for code, count in saved["traffic"]["codes"].items()}
    numbers = Numbers(**{**saved["numbers"], "means": RequestSums(**saved["numbers"]["means"])})
    if (len(numbers.histogram), len(numbers.kinds)) != (BINS, KINDS):
        raise ValueError(f"{len(numbers.histogram)} bins")
    cells = {int(cell): _arm(arm) for cell, arm in saved["cells"].items()}
    return Arm(Traffic(codes, _latency(saved["traffic"]["latency"])), numbers, int(saved["unserved"]), cells)


def _pairs(saved: Mapping[str, Any]) -> Pairs:
    differences, latency = RequestSums(**saved["differences"]), _latency(saved["stable_latency"])
    return Pairs(**{**saved, "differences": differences, "stable_latency": latency})


def _latency(saved: Mapping[str, Any]) -> Latency:
    return Latency(**{**saved, "buckets": {int(bucket): int(count) for bucket, count in saved["buckets"].items()}})
