"""What the router says of the releases that it follows, and when enough of one has been seen.

The steps of a release and Airflow's task that watches it read the same status by the same words, so they are here.
"""

from __future__ import annotations

import http.client
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from airtight.errors import TerminalError, TransientError

VARIABLE = "AIRTIGHT_ROUTER"
"""Environment variable with the REST address of the router."""
PATH = "/router/status"
BINS = 20
"""Of the histogram of answers, from 0 to 1."""
SURE = 3.0
"""Standard errors by which a share must lie over its limit to be clearly over it,"""
LEAST = 5
"""and so many cases it must be: of a few, chance makes a large share."""
_OK = 200


@dataclass(frozen=True)
class Side:
    """What one version did in a release, as the router counted it.

    Args:
      version: The version.
      requests: Requests that it was asked.
      failed: Answers 5xx, and requests that no server answered.
      refused: Answers 4xx.
      codes: Answers by HTTP status.
      latency_ms: "mean", "p50", "p99" and "max" in milliseconds; None where nothing was answered.
      numbers: Finite numbers in the answers.
      mean: Their mean, or None.
      histogram: Counts of those in 0 to 1, `BINS` bins.
      skipped: Answers that were too large to be looked into.
      unserved: Requests meant for it when no server had it, which were answered by what is served.
    """

    version: int = 0
    requests: int = 0
    failed: int = 0
    refused: int = 0
    codes: Mapping[str, int] = field(default_factory=dict)
    latency_ms: Mapping[str, float | None] = field(default_factory=dict)
    numbers: int = 0
    mean: float | None = None
    histogram: tuple[int, ...] = (0,) * BINS
    skipped: int = 0
    unserved: int = 0

    @property
    def answered(self) -> int:
        """Requests that got an answer of the model."""
        return max(0, self.requests - self.failed - self.refused)

    @property
    def failed_share(self) -> float:
        """0 to 1; 0 without requests."""
        return self.failed / self.requests if self.requests else 0.0

    @property
    def refused_share(self) -> float:
        """0 to 1; 0 without requests."""
        return self.refused / self.requests if self.requests else 0.0

    @property
    def p99_ms(self) -> float | None:
        """99 of 100 requests took at most so long, milliseconds."""
        return self.latency_ms.get("p99")

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Side:
        """From the router's JSON."""
        answers = told.get("answers") or {}
        return cls(
            int(told.get("version", 0)),
            int(told.get("requests", 0)),
            int(told.get("failed", 0)),
            int(told.get("refused", 0)),
            dict(told.get("codes") or {}),
            dict(told.get("latency_ms") or {}),
            int(answers.get("count", 0)),
            answers.get("mean"),
            tuple(int(count) for count in answers.get("histogram") or (0,) * BINS),
            int(answers.get("skipped", 0)),
            int(told.get("unserved", 0)),
        )


@dataclass(frozen=True)
class Counts:
    """What the router has counted of one release.

    Args:
      id: Of the release.
      mode: One of `airtight.rollout.state.MODES`.
      share: The candidate's.
      stable: The side of the version that is served.
      candidate: The side of the version that is tried.
      pairs: In shadow mode, how both sides' numbers of one request compare: "count", "differing",
        "largest_difference", "mean_difference".
    """

    id: str
    mode: str
    share: float
    stable: Side = Side()
    candidate: Side = Side()
    pairs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, status: Mapping[str, Any], model: str) -> Counts | None:
        """Those of a model, from the router's whole status; None where it follows no release of the model."""
        told = status.get("releases", {}).get(model)
        if told is None:
            return None
        sides = {name: Side.of(side) for name, side in told.get("sides", {}).items()}
        return cls(
            str(told["id"]),
            str(told["mode"]),
            float(told["share"]),
            sides.get("stable", Side()),
            sides.get("candidate", Side()),
            dict(told.get("pairs") or {}),
        )

    def enough(self, requests: int) -> bool:
        """Whether both sides have seen so many requests."""
        return min(self.stable.requests, self.candidate.requests) >= requests

    def clearly_worse(self, limit: float) -> str:
        """Why the candidate need not be watched any longer, in words; empty where it may be.

        Its share of failed or refused requests is over the stable version's by more than `limit`, and not by chance:
        so is the lower end of what the share may really be.

        Args:
          limit: 0 to 1.
        """
        for name in ("failed", "refused"):
            count = getattr(self.candidate, name)
            bound = getattr(self.stable, f"{name}_share") + limit
            if count >= LEAST and lowest_share(count, self.candidate.requests) > bound:
                return f"{count} of {self.candidate.requests} requests to the candidate {name}, more than {bound:.2%}"
        return ""


def lowest_share(count: int, of: int) -> float:
    """The least that a share may really be, of which so many cases were seen: the lower end of Wilson's interval."""
    if not of:
        return 0.0
    share, square = count / of, SURE**2
    spread = SURE * math.sqrt(share * (1 - share) / of + square / (4 * of**2))
    return max(0.0, (share + square / (2 * of) - spread) / (1 + square / of))


def over(
    counts: Counts | None, *, since: str, minutes: float, longest_minutes: float, requests: int, limit: float
) -> str:
    """Why a release has been watched for long enough, in words; empty where it has not.

    Args:
      counts: What the router has counted so far; None while it is away, which does not keep a release for ever.
      since: When the release began, ISO 8601.
      minutes: It is watched so long,
      longest_minutes: and where requests are few at most so long.
      requests: Each side should have seen so many.
      limit: As in `Counts.clearly_worse`.
    """
    elapsed = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds() / 60
    seen = "and the router is away"
    if counts is not None:
        if why := counts.clearly_worse(limit):
            return why
        seen = f"with {counts.stable.requests} requests to stable, {counts.candidate.requests} to the candidate"
        if elapsed >= minutes and counts.enough(requests):
            return f"{minutes:g} minutes are over, {seen}"
    if elapsed >= max(minutes, longest_minutes):
        return f"the longest time of {max(minutes, longest_minutes):g} minutes is over, {seen}"
    return ""


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
        told = json.loads(response.read())
        if response.status != _OK or not isinstance(told, dict) or "releases" not in told:
            raise ValueError(f"status {response.status}, {str(told)[:200]}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TransientError(
            "The router cannot be reached.",
            expected=f"the status of a router at {url}{PATH}",
            received=f"{type(error).__name__}: {error}",
            remedy="Start the router, or correct its address, and retry the task.",
        ) from error
    finally:
        connection.close()
    return told
