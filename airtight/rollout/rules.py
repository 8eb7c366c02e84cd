"""The rules of a release: which comparisons decide, with what error, and when it has been watched for long enough.

- A release ends early when one rule says that the candidate is outside a margin. Each rule has the same part of one
  error, so that all together err at most at `ALPHA` (Bonferroni).
- The candidate is promoted when every rule says that it is within its margin, each at `ALPHA`: a candidate that is
  outside of one passes that one by chance alone (an intersection-union test; Berger, Technometrics 24, 1982), which
  needs no correction.
- Else nothing is decided.

All bounds hold at every look, so it may be looked at at any time, and as often as one likes. What is compared is
sameness and not quality: which version is right more often, live requests do not tell.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

from airtight.errors import TerminalError
from airtight.rollout.arm_metrics import Arm, Counts, Sums, quantile
from airtight.rollout.comparisons import ALPHA, MIN_ANSWERS, Comparison, Family
from airtight.rollout.state import CANARY, SHADOW

PROMOTE, ROLL_BACK, UNDECIDED = "promote", "roll_back", "undecided"
SAME, ANY = ANSWERS = "same", "any"
"""same: answers that are other than the margins allow roll the candidate back. any: they are only reported."""
DECIDED = "It is decided: "
MAX_RULES = 8


@dataclass(frozen=True)
class Margins:
    """By how much a candidate may be worse, or other, than the stable version.

    Args:
      requests: Each version must have been asked so many for a promotion.
      failed: Share of failed requests (5xx), of such that found no server with the version, and of answers with a
        number that is not finite: each may be higher by so much.
      refused: Share of refused requests (4xx).
      slow: Share of slow requests.
      slow_ratio: A request is slow when it takes longer than so many times the stable version's p95,
      slow_floor_ms: and longer than so many milliseconds.
      mean: The mean answer may lie so far away, in units of the release's range of answers, as all numbers here are.
      distribution: So may the share of answers up to any value.
      difference: In shadow mode, the mean difference of both answers to one request may be so large.
      answers: `same` or `any`.

    Raises:
      TerminalError: A margin is not over 0, or `answers` is neither.
    """

    requests: int = 200
    failed: float = 0.01
    refused: float = 0.02
    slow: float = 0.02
    slow_ratio: float = 2.0
    slow_floor_ms: float = 50.0
    mean: float = 0.05
    distribution: float = 0.1
    difference: float = 0.05
    answers: str = SAME

    def __post_init__(self) -> None:
        numbers = [getattr(self, entry.name) for entry in fields(self) if entry.name != "answers"]
        sound = all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
        margins = (self.failed, self.refused, self.slow, self.mean, self.distribution, self.difference)
        if not sound or min(margins) <= 0 or self.answers not in ANSWERS:
            raise TerminalError(
                "The margins of the release cannot be used.",
                expected=f"margins over 0, as no number of requests proves that there is no difference at all, and "
                f"answers of {', '.join(ANSWERS)}",
                received=repr(self),
                remedy="Correct them.",
            )

    @classmethod
    def of(cls, payload: str | Mapping[str, Any]) -> Margins:
        """From JSON, or a mapping; what is not there is the default."""
        values = json.loads(payload or "{}") if isinstance(payload, str) else payload
        names = {entry.name for entry in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def to_json(self) -> str:
        """As `of` reads it."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Standing:
    """How a release stands.

    Args:
      decision: `PROMOTE`, `ROLL_BACK` or `UNDECIDED`.
      reason: Why, without a full stop.
      comparisons: All rules.
      more: Further requests to both versions until it is promoted, if the candidate is like the stable version, as far
        as that can be told yet; None where it cannot, or they are out of reach.
    """

    decision: str
    reason: str
    comparisons: tuple[Comparison, ...]
    more: float | None

    def to_json(self) -> dict[str, Any]:
        """For the router's status."""
        return {
            "decision": self.decision,
            "reason": self.reason,
            "more_requests": None if self.more is None else round(self.more),
            "rules": [asdict(comparison) for comparison in self.comparisons],
        }


def decide(counts: Counts, margins: Margins, known: Arm | None = None, *, detail: bool = True) -> Standing:
    """Holds each rule against what the router counted.

    Args:
      counts: Of one release.
      margins: Its margins.
      known: What the stable version did before, for the needed requests.
      detail: As of `airtight.rollout.comparisons.Family`.
    """
    compared = compare(counts, margins, known, detail=detail)
    deciding = [comparison for comparison in compared if comparison.decides]
    stable, candidate = counts.stable.requests, counts.candidate.requests
    over = f"over {stable} requests to stable, {candidate} to the candidate"
    missing = max(0, margins.requests - stable, margins.requests - candidate)
    per_request = min(counts.share, 1 - counts.share) if counts.mode != SHADOW else counts.share
    needed = [comparison.more for comparison in deciding if comparison.more is not None]
    more = max(missing / per_request, *needed) if per_request and needed else None
    if worse := [comparison for comparison in deciding if comparison.worse]:
        reason = "; ".join(map(in_words, worse))
        return Standing(ROLL_BACK, f"{reason} ({over})", compared, more)
    open_rules = [comparison for comparison in deciding if not comparison.holds]
    if not open_rules and not missing:
        return Standing(PROMOTE, f"all {len(deciding)} rules hold {over}", compared, 0.0)
    lacking = [comparison.name for comparison in open_rules]
    lacking += [f"at least {margins.requests} requests to each"] if missing else []
    still = "how many more are needed is not known" if more is None else f"still needed are {in_requests(counts, more)}"
    at_least = ", at least" if len(needed) < len(deciding) else ""
    return Standing(
        UNDECIDED, f"nothing is decided {over}: open are {', '.join(lacking)}; {still}{at_least}", compared, more
    )


def compare(
    counts: Counts, margins: Margins, known: Arm | None = None, *, detail: bool = True
) -> tuple[Comparison, ...]:
    """Compares both versions; arguments as of `decide`."""
    family = Family(counts, ALPHA / MAX_RULES, known or Arm(), detail)
    pairs, shadow, same = counts.pairs, counts.mode == SHADOW, margins.answers == SAME

    def alone(kind: str) -> tuple[float, float]:
        return pairs.only_candidate.get(kind, 0), pairs.only_stable.get(kind, 0)

    limit_ms = slow_over_ms(counts.stable, margins)
    slow_pairs = None
    if shadow:
        asked_both = Arm(latency_buckets=pairs.stable_latency_buckets)
        slow_pairs = counts.candidate.slower_than(limit_ms), asked_both.slower_than(limit_ms)
    compared = [
        family.share("failed share", lambda arm: arm.failed, margins.failed, alone("failed")),
        family.share("refused share", lambda arm: arm.refused, margins.refused, alone("refused")),
        # The stable version is asked first: a request that it was not there for has no pair.
        family.share("unserved share", lambda arm: arm.unserved, margins.failed, (counts.candidate.unserved, 0)),
        family.share("not finite share", lambda arm: arm.not_finite, margins.failed, alone("not_finite")),
        family.share("slow share", lambda arm: arm.slower_than(limit_ms), margins.slow, slow_pairs),
    ]
    if counts.stable.numbers or counts.candidate.numbers:
        answers = [
            family.distribution("answers", margins.distribution),
            family.mean("mean answer", lambda arm: arm.answer_means, margins.mean, two_sided=True),
        ]
        if shadow:
            answers.append(_difference(family, pairs.differences, margins.difference))
        compared += [replace(comparison, decides=same) for comparison in answers]
    if counts.mode == CANARY:
        compared.append(family.spread("candidate's share"))
    return tuple(compared)


def needed(known: Arm, mode: str, share: float, margins: Margins) -> Standing:
    """How many requests a release will need, before it begins.

    Args:
      known: What the stable version did so far.
      mode: The release's.
      share: The candidate's.
      margins: The release's.
    """
    if mode not in (CANARY, SHADOW):
        # By callers: how they differ is seen in the release alone. At least as many are needed as by requests.
        mode = CANARY
    return decide(Counts("", mode, share), margins, known)


def in_requests(counts: Counts, requests: float) -> str:
    """How many requests, and how many of them to the candidate."""
    return f"about {_rounded(requests)} requests ({_rounded(requests * counts.share)} of them to the candidate)"


def slow_over_ms(stable: Arm, margins: Margins) -> float:
    """Milliseconds over which a request is slow. It follows the stable version's p95 as it is counted."""
    return max(margins.slow_floor_ms, margins.slow_ratio * (quantile(stable.latency_buckets, 0.95) or 0.0))


def in_words(comparison: Comparison) -> str:
    """What a comparison says, as one clause."""
    if comparison.difference is None:
        return f"{comparison.name} is not known"
    bound = comparison.lower if comparison.worse else comparison.upper
    side = "at least" if comparison.worse else "up to"
    of = ":"
    if comparison.candidate is not None:
        of = f" is {comparison.candidate:.4g}, stable's {comparison.stable:.4g}:"
    bounds = "" if bound is None else f" ({side} {bound:.2g})"
    return (
        f"{comparison.name}{of} a difference of {comparison.difference:.2g}{bounds}, allowed is {comparison.margin:g}"
    )


def over(
    counts: Counts | None,
    *,
    since: str,
    minutes: float,
    longest_minutes: float,
    margins: Margins,
) -> str:
    """Why a release has been watched for long enough, in words; empty where it has not.

    Args:
      counts: What the router has counted so far; None while it is away, which does not keep a release for ever.
      since: When the release began, ISO 8601.
      minutes: It is watched at least so many minutes before it is promoted,
      longest_minutes: and at most so many in all.
      margins: The release's.
    """
    elapsed = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds() / 60
    longest = max(minutes, longest_minutes)
    seen = "and the router is away"
    if counts is not None:
        decision = decide(counts, margins, detail=False).decision
        if decision == ROLL_BACK or (decision == PROMOTE and elapsed >= minutes):
            return f"{DECIDED}{decide(counts, margins).reason}"
        seen = f"and {decide(counts, margins).reason}" if elapsed >= longest else ""
    return f"The longest time of {longest:g} minutes is over, {seen}" if elapsed >= longest else ""


def _difference(family: Family, differences: Sums, margin: float) -> Comparison:
    name, mean, variance = "mean difference", differences.mean, differences.variance_of_mean
    if mean is None or not math.isfinite(variance) or differences.count < MIN_ANSWERS:
        return Comparison(name, margin)
    requests = differences.count / max(family.counts.share, 1e-9)
    return replace(family.bounded(name, mean, variance, requests, margin), candidate=mean, stable=0.0)


def _rounded(requests: float) -> str:
    """To two digits: more would promise more than is known."""
    digits = max(0, len(str(int(requests))) - 2)
    return f"{round(requests, -digits):,.0f}"
