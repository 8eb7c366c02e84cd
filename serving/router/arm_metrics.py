"""What a release's sides have answered: codes, latency, numbers, and how far two answers to one request differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SIDES = ("stable", "candidate")
TOLERANCE = 1e-6
"""Numbers that differ by more are told as differing."""
BINS = 20
_FINEST_MS, _GROWTH = 0.01, 1.04
_LOG_GROWTH = math.log(_GROWTH)
_SERVER_ERROR, _UNIMPLEMENTED, _CALLER_ERROR = 500, 501, 400


@dataclass
class Latency:
    """Durations in milliseconds, in buckets that grow by 4 %: a percentile is known to 2 %."""

    buckets: dict[int, int] = field(default_factory=dict)
    count: int = 0
    total: float = 0.0
    largest: float = 0.0

    def add(self, milliseconds: float) -> None:
        """Counts one."""
        bucket = math.ceil(math.log(max(milliseconds, _FINEST_MS) / _FINEST_MS) / _LOG_GROWTH)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1
        self.total += milliseconds
        self.largest = max(self.largest, milliseconds)

    def quantile(self, share: float) -> float | None:
        """The duration within which this share of all ended; None where there is none."""
        left = share * self.count
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return min(_FINEST_MS * _GROWTH ** (bucket - 0.5), self.largest)
        return None

    def told(self) -> dict[str, float | None]:
        """As the status tells it."""
        return {
            "mean": self.total / self.count if self.count else None,
            "p50": self.quantile(0.5),
            "p99": self.quantile(0.99),
            "max": self.largest if self.count else None,
        }


@dataclass
class Numbers:
    """The numbers that were answered; the histogram counts those in 0..1 by 0.05."""

    count: int = 0
    total: float = 0.0
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)
    skipped: int = 0

    def add(self, numbers: Sequence[float]) -> None:
        """Counts one answer's; what is not finite is left out."""
        for number in numbers:
            if math.isfinite(number):
                self.count += 1
                self.total += number
                if 0 <= number <= 1:
                    self.histogram[min(int(number * BINS), BINS - 1)] += 1

    def told(self) -> dict[str, Any]:
        """As the status tells it."""
        mean = self.total / self.count if self.count else None
        return {"count": self.count, "mean": mean, "histogram": list(self.histogram), "skipped": self.skipped}


@dataclass
class Traffic:
    """Requests by their answers' HTTP codes; a gRPC status counts as the code that TensorFlow Serving maps it to."""

    codes: dict[str, int] = field(default_factory=dict)
    latency: Latency = field(default_factory=Latency)

    def add(self, code: int, milliseconds: float) -> None:
        """Counts one answer."""
        self.codes[str(code)] = self.codes.get(str(code), 0) + 1
        self.latency.add(milliseconds)

    def told(self) -> dict[str, Any]:
        """As the status tells it."""
        codes = {int(code): count for code, count in self.codes.items()}
        return {
            "requests": sum(codes.values()),
            "failed": sum(count for code, count in codes.items() if code >= _SERVER_ERROR and code != _UNIMPLEMENTED),
            "refused": sum(n for c, n in codes.items() if _CALLER_ERROR <= c < _SERVER_ERROR or c == _UNIMPLEMENTED),
            "codes": dict(sorted(self.codes.items())),
            "latency_ms": self.latency.told(),
        }


@dataclass
class Side:
    """One side of a release.

    Args:
      traffic: Its answers.
      numbers: What it answered.
      unserved: Requests that were meant for it when no server had its version; they were answered by what is served.
    """

    traffic: Traffic = field(default_factory=Traffic)
    numbers: Numbers = field(default_factory=Numbers)
    unserved: int = 0

    def told(self, version: int) -> dict[str, Any]:
        """As the status tells it."""
        return {
            "version": version,
            **self.traffic.told(),
            "unserved": self.unserved,
            "answers": self.numbers.told(),
        }


@dataclass
class Pairs:
    """Requests that both sides answered with numbers, in shadow mode.

    Args:
      count: Such requests.
      differing: Those of which a number differs by more than `TOLERANCE`, or that have not as many numbers.
      largest: The largest difference of two numbers.
      total: Sum of all differences.
      numbers: How many numbers were compared.
      dropped: Requests that were not asked of the candidate too, because too many such were under way.
    """

    count: int = 0
    differing: int = 0
    largest: float = 0.0
    total: float = 0.0
    numbers: int = 0
    dropped: int = 0

    def add(self, stable: Sequence[float], candidate: Sequence[float]) -> None:
        """Compares the answers to one request."""
        self.count += 1
        apart = len(stable) != len(candidate)
        for left, right in zip(stable, candidate, strict=False):
            same = left == right or (math.isnan(left) and math.isnan(right))
            difference = 0.0 if same else abs(left - right)
            if math.isfinite(difference):
                self.numbers += 1
                self.total += difference
                self.largest = max(self.largest, difference)
            apart |= not difference <= TOLERANCE
        self.differing += apart

    def told(self) -> dict[str, Any]:
        """As the status tells it."""
        return {
            "count": self.count,
            "differing": self.differing,
            "largest_difference": self.largest if self.numbers else None,
            "mean_difference": self.total / self.numbers if self.numbers else None,
            "dropped": self.dropped,
        }


@dataclass
class Counts:
    """All that is counted for one release."""

    stable: Side = field(default_factory=Side)
    candidate: Side = field(default_factory=Side)
    pairs: Pairs = field(default_factory=Pairs)

    def side(self, name: str) -> Side:
        """One of `SIDES`."""
        return self.stable if name == SIDES[0] else self.candidate

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> Counts:
        """From what `dataclasses.asdict` made of it, by way of JSON.

        Raises:
          KeyError, TypeError, ValueError, AttributeError: It is not that.
        """
        return cls(_side(saved["stable"]), _side(saved["candidate"]), Pairs(**saved["pairs"]))


def _side(saved: Mapping[str, Any]) -> Side:
    latency = dict(saved["traffic"]["latency"])
    latency["buckets"] = {int(bucket): int(count) for bucket, count in latency["buckets"].items()}
    codes = {str(int(code)): int(count) for code, count in saved["traffic"]["codes"].items()}
    numbers = Numbers(**saved["numbers"])
    if len(numbers.histogram) != BINS:
        raise ValueError(f"{len(numbers.histogram)} bins")
    return Side(Traffic(codes, Latency(**latency)), numbers, int(saved["unserved"]))
