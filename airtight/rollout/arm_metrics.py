"""What the router counted of a release's arms, and how to ask it.

The steps of a release, Airflow's task that watches it and the router itself read the same figures by these classes.
"""

from __future__ import annotations

import http.client
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from airtight.errors import TerminalError, TransientError

VARIABLE = "AIRTIGHT_ROUTER"
"""Environment variable with the REST address of the router."""
PATH = "/router/status"
FORMAT = 2
"""Of what the router counts. Sums by request came with 2; what an older router counted decides nothing."""
BINS = 20
"""Of the histogram of answers, from 0 to 1 in units of the release's range."""
KINDS = BINS + 3
"""Kinds of numbers in an answer: none, below 0, one for each bin, above 1."""
FINEST_MS, GROWTH = 0.01, 1.04
"""Latency is counted in buckets: up to `FINEST_MS`, then up to 4 % more each."""
_OK = 200


def bucket_of(milliseconds: float) -> int:
    """The bucket in which a duration is counted."""
    return math.ceil(math.log(max(milliseconds, FINEST_MS) / FINEST_MS) / math.log(GROWTH))


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """The duration in milliseconds, to 2 %, within which this share of all ended; None where there is none."""
    left = share * sum(buckets.values())
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return FINEST_MS * GROWTH ** (bucket - 0.5)
    return None


@dataclass(frozen=True)
class Sums:
    """Of one value for each request: how many, their sum, and the sum of their squares."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float | None:
        """None where there is no value."""
        return self.total / self.count if self.count else None

    @property
    def variance_of_mean(self) -> float:
        """Infinite where the values do not tell: of one alone, or where a sum is too large for a float."""
        if self.count < 2:  # noqa: PLR2004 - a spread needs two.
            return math.inf
        mean = self.total / self.count
        variance = (self.squares / self.count - mean * mean) / (self.count - 1)
        # Rounding may leave less than none.
        return max(0.0, variance) if math.isfinite(variance) else math.inf

    @classmethod
    def of(cls, payload: Mapping[str, Any] | None) -> Sums:
        """From JSON, which has null for what is no finite number."""
        sums = payload or {}
        total, squares = (sums.get(name, 0.0) for name in ("total", "squares"))
        return cls(
            int(sums.get("count", 0)),
            math.nan if total is None else total,
            math.nan if squares is None else squares,
        )


@dataclass(frozen=True)
class Arm:
    """What one version did in a release, as the router counted it.

    Args:
      version: The version.
      requests: Requests that it was asked.
      failed: Answers 5xx, and requests that no server answered.
      refused: Answers 4xx.
      codes: Answers by HTTP status.
      latency_ms: "mean", "p50", "p95", "p99" and "max" in milliseconds; None where nothing was answered.
      latency_buckets: Requests by bucket of their duration.
      numbers: Finite numbers in the answers.
      mean: Their mean, or None.
      histogram: Counts of those in 0 to 1, `BINS` bins.
      skipped: Answers that were too large to be read.
      not_finite: Answers with a number that is not finite.
      kinds: Sums over the answers that were read of the share of each kind of number in the answer, `KINDS` sums. An
        answer counts 1 in all, however many rows it has.
      answer_means: Of each answer with a finite number, the mean of those.
      unserved: Requests meant for it when no server had it, which were answered by what is served.
      cells: In split mode the same by groups of callers, of which each has all requests of its callers.
    """

    version: int = 0
    requests: int = 0
    failed: int = 0
    refused: int = 0
    codes: Mapping[str, int] = field(default_factory=dict)
    latency_ms: Mapping[str, float | None] = field(default_factory=dict)
    latency_buckets: Mapping[int, int] = field(default_factory=dict)
    numbers: int = 0
    mean: float | None = None
    histogram: tuple[int, ...] = (0,) * BINS
    skipped: int = 0
    not_finite: int = 0
    kinds: tuple[float, ...] = (0.0,) * KINDS
    answer_means: Sums = Sums()
    unserved: int = 0
    cells: tuple[Arm, ...] = ()

    @property
    def assigned(self) -> int:
        """Requests that were meant for it."""
        return self.requests + self.unserved

    def slower_than(self, milliseconds: float) -> int:
        """Requests that took longer, to the edge of a bucket."""
        limit = bucket_of(milliseconds)
        return sum(count for bucket, count in self.latency_buckets.items() if bucket > limit)

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Arm:
        """From the router's JSON."""
        answers = payload.get("answers") or {}
        return cls(
            version=int(payload.get("version", 0)),
            requests=int(payload.get("requests", 0)),
            failed=int(payload.get("failed", 0)),
            refused=int(payload.get("refused", 0)),
            codes=dict(payload.get("codes") or {}),
            latency_ms=dict(payload.get("latency_ms") or {}),
            latency_buckets=_buckets(payload.get("latency_buckets")),
            numbers=int(answers.get("count", 0)),
            mean=answers.get("mean"),
            histogram=tuple(int(count) for count in answers.get("histogram") or (0,) * BINS),
            skipped=int(answers.get("skipped", 0)),
            not_finite=int(answers.get("not_finite", 0)),
            kinds=tuple(float(total) for total in answers.get("kinds") or (0.0,) * KINDS),
            answer_means=Sums.of(answers.get("means")),
            unserved=int(payload.get("unserved", 0)),
            cells=tuple(cls.of(cell) for cell in payload.get("cells") or ()),
        )


@dataclass(frozen=True)
class Pairs:
    """Requests that both versions were asked, in shadow mode.

    Args:
      count: Those that both answered with numbers.
      differing: Of those, the ones of which a number differs.
      largest_difference: Of two numbers.
      mean_difference: Over all numbers.
      differences: Of each such request, the mean difference of both versions' numbers.
      only_candidate: By outcome ("failed", "refused", "not_finite"), the requests that came to it with the candidate
        alone.
      only_stable: And with the stable version alone.
      stable_latency_buckets: The stable version's durations of the requests that the candidate was asked, too.
      dropped: Requests that the candidate was not asked, too, because too many such were under way.
    """

    count: int = 0
    differing: int = 0
    largest_difference: float | None = None
    mean_difference: float | None = None
    differences: Sums = Sums()
    only_candidate: Mapping[str, int] = field(default_factory=dict)
    only_stable: Mapping[str, int] = field(default_factory=dict)
    stable_latency_buckets: Mapping[int, int] = field(default_factory=dict)
    dropped: int = 0

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Pairs:
        """From the router's JSON."""
        return cls(
            int(payload.get("count", 0)),
            int(payload.get("differing", 0)),
            payload.get("largest_difference"),
            payload.get("mean_difference"),
            Sums.of(payload.get("differences")),
            dict(payload.get("only_candidate") or {}),
            dict(payload.get("only_stable") or {}),
            _buckets(payload.get("stable_latency_buckets")),
            int(payload.get("dropped", 0)),
        )


def _buckets(payload: Mapping[str, Any] | None) -> dict[int, int]:
    return {int(bucket): int(count) for bucket, count in (payload or {}).items()}


@dataclass(frozen=True)
class Counts:
    """What the router has counted of one release.

    Args:
      id: Of the release.
      mode: One of `airtight.rollout.state.MODES`.
      share: The candidate's.
      stable: The arm of the version that is served.
      candidate: The arm of the version that is tried.
      pairs: In shadow mode, how both versions' answers to one request compare.
      low: Numbers of answers are counted in units of the range from `low` to `high`.
      high: See `low`.
    """

    id: str
    mode: str
    share: float
    stable: Arm = Arm()
    candidate: Arm = Arm()
    pairs: Pairs = Pairs()
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def of(cls, status: Mapping[str, Any], model: str) -> Counts | None:
        """Those of a model, from the router's whole status; None where it follows no release of the model.

        Raises:
          TerminalError: The router counts as an older version of it did.
        """
        payload = status.get("releases", {}).get(model)
        if payload is None:
            return None
        if payload.get("format") != FORMAT:
            raise TerminalError(
                "The router does not count what the rules of a release need.",
                expected=f"counts of format {FORMAT} in {PATH}",
                received=f"format {payload.get('format', 1)}",
                remedy="Restart the router, so that it runs the same version of the code, and start the release again.",
            )
        arms = {name: Arm.of(arm) for name, arm in payload.get("sides", {}).items()}
        return cls(
            str(payload["id"]),
            str(payload["mode"]),
            float(payload["share"]),
            arms.get("stable", Arm()),
            arms.get("candidate", Arm()),
            Pairs.of(payload.get("pairs") or {}),
            float(payload.get("low", 0.0)),
            float(payload.get("high", 1.0)),
        )


def address(url: str = "") -> str:
    """The router's REST address: `url`, or what $AIRTIGHT_ROUTER names; empty where there is none."""
    return url or os.environ.get(VARIABLE, "")


def status(url: str, timeout_s: float = 5.0) -> dict[str, Any]:
    """Asks the router for its status; a proxy set in the environment is not used.

    Args:
      url: Its REST address.
      timeout_s: For the request.

    Raises:
      TerminalError: `url` is no HTTP address.
      TransientError: The router cannot be reached, or what answers is none.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise TerminalError(
            "The router's address is not usable.",
            expected="http://host:port",
            received=repr(url),
            remedy=f"Correct router_url, or {VARIABLE}.",
        )
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request("GET", parts.path.rstrip("/") + PATH)
        response = connection.getresponse()
        payload = json.loads(response.read())
        if response.status != _OK or not isinstance(payload, dict) or "releases" not in payload:
            raise ValueError(f"status {response.status}, {str(payload)[:200]}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TransientError(
            "The router cannot be reached.",
            expected=f"the status of a router at {url}{PATH}",
            received=f"{type(error).__name__}: {error}",
            remedy="Start the router, or correct its address, and retry the task.",
        ) from error
    finally:
        connection.close()
    return payload
