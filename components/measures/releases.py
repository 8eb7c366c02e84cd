"""A release's rules: what the candidate did on live requests, beside the stable version on its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from airtight.rollout.arm_metrics import BINS, Counts, Side
from airtight.rollout.state import SHADOW
from airtight.verdict import Check
from components.measures import drift


@dataclass(frozen=True)
class Limits:
    """How much worse, or other, a candidate may be.

    Args:
      requests: Each side must have seen so many for anything to be decided.
      failed: Its share of failed requests, and of refused ones, may be higher by so much, 0 to 1.
      p99_ratio: Its p99 may be so many times that of the stable version,
      p99_floor_ms: or up to so many milliseconds, whatever that is.
      mean: The mean of its answers may lie so far away.
      psi: Population stability index of its answers' histogram.
      difference: In shadow mode, the mean difference of both answers to one request may be so large.
    """

    requests: int
    failed: float
    p99_ratio: float
    p99_floor_ms: float
    mean: float
    psi: float
    difference: float


def checks(counts: Counts, limits: Limits) -> tuple[Check, ...]:
    """Holds each rule against what the router counted.

    Args:
      counts: Of one release.
      limits: The bounds. Both sides answer other requests, in shadow mode too, where the stable version answers all and
        the candidate a share; so mean and PSI get what chance alone explains on top.

    Returns:
      `requests` first. The others are worth nothing where that does not hold.
    """
    stable, candidate = counts.stable, counts.candidate
    told = [
        _requests(counts, limits.requests),
        _share("failed", stable, candidate, limits.failed),
        _share("refused", stable, candidate, limits.failed),
        _unserved(candidate, limits.failed),
        _latency(stable, candidate, limits),
        _numbers(stable, candidate, limits.failed),
    ]
    if stable.numbers and candidate.numbers:
        told += [_mean(counts, limits.mean), _distribution(stable, candidate, limits.psi)]
    if counts.mode == SHADOW:
        told += _pairs(counts, limits.difference)
    return tuple(told)


def shares(side: Side) -> np.ndarray:
    """Share of a side's numbers in each bin, float64 [bins + 1]; the last holds those outside of 0 to 1."""
    inside = np.asarray(side.histogram, dtype=np.float64)
    return np.append(inside, max(0.0, side.numbers - inside.sum())) / max(1, side.numbers)


def _requests(counts: Counts, least: int) -> Check:
    seen = min(counts.stable.requests, counts.candidate.requests)
    note = f"{counts.stable.requests} requests to stable, {counts.candidate.requests} to the candidate."
    return Check("requests", seen >= least, seen, f">= {least}", note=note)


def _share(name: str, stable: Side, candidate: Side, more: float) -> Check:
    old, new = (getattr(side, f"{name}_share") for side in (stable, candidate))
    count = getattr(candidate, name)
    note = f"{count} of {candidate.requests} requests to the candidate."
    return Check(f"{name} share", new <= old + more, new, f"<= {old + more:.4g}", old, note=note)


def _unserved(candidate: Side, most: float) -> Check:
    """Requests that the candidate should have answered and was not there for; the stable version answered them."""
    meant = candidate.requests + candidate.unserved
    share = candidate.unserved / meant if meant else 0.0
    note = f"{candidate.unserved} of {meant} requests found no server that had the candidate."
    return Check("unserved share", share <= most, share, f"<= {most:.4g}", note=note)


def _latency(stable: Side, candidate: Side, limits: Limits) -> Check:
    old, new = stable.p99_ms, candidate.p99_ms
    if new is None:
        return Check("p99 ms", True, None, note="Nothing was answered, so there is no latency.", severity="warning")
    bound = max(limits.p99_floor_ms, limits.p99_ratio * (old or 0.0))
    note = f"{limits.p99_ratio:g} times stable's, and at least {limits.p99_floor_ms:g} ms."
    return Check("p99 ms", new <= bound, new, f"<= {bound:.4g}", old, note=note)


def _numbers(stable: Side, candidate: Side, less: float) -> Check:
    """Answers without a number, such as NaN, are no failure to the router; here they are."""
    old, new = (_per_answer(side) for side in (stable, candidate))
    if new is None:
        return Check(
            "numbers per answer", True, None, note="No answer of the candidate was looked into.", severity="warning"
        )
    bound = (old or 0.0) * (1 - less) - _noise_of_numbers(stable, candidate)
    return Check("numbers per answer", new >= bound, new, f">= {max(0.0, bound):.4g}", old, note="Finite ones.")


def _per_answer(side: Side) -> float | None:
    looked_at = side.answered - side.skipped
    return side.numbers / looked_at if looked_at > 0 else None


def _noise_of_numbers(stable: Side, candidate: Side) -> float:
    """Batches differ in size, which nobody counts: where there are any, they are taken to be spread by their mean."""
    mean = _per_answer(stable) or 0.0
    if mean <= 1:
        return 0.0
    return 3 * mean * math.sqrt(1 / max(1, stable.answered) + 1 / max(1, candidate.answered))


def _mean(counts: Counts, limit: float) -> Check:
    old, new = counts.stable.mean, counts.candidate.mean
    if old is None or new is None:
        return Check("mean answer", True, new, baseline=old, note="There is no mean.", severity="warning")
    noise = 3 * math.hypot(_standard_error(counts.stable), _standard_error(counts.candidate))
    note = f"Within {limit:g} of stable's" + (f", and {noise:.3g} for chance." if noise else ".")
    return Check(
        "mean answer", abs(new - old) <= limit + noise, new, f"within {limit + noise:.3g} of it", old, note=note
    )


def _standard_error(side: Side) -> float:
    """Of the mean of a side's numbers, as far as the histogram tells their spread."""
    centers = (np.arange(BINS) + 0.5) / BINS
    inside = np.asarray(side.histogram, dtype=np.float64)
    if inside.sum() == 0:
        return 0.0
    mean = float(np.average(centers, weights=inside))
    return math.sqrt(float(np.average((centers - mean) ** 2, weights=inside)) / side.numbers)


def _distribution(stable: Side, candidate: Side, limit: float) -> Check:
    old, new = shares(stable), shares(candidate)
    # Bins that both leave empty tell nothing, and are no chance to differ.
    used = (old > 0) | (new > 0)
    noise = drift.sampling_noise(int(used.sum()), stable.numbers, candidate.numbers)
    found = drift.psi(old[used], new[used])
    note = f"PSI of the answers' histogram; {limit:g}, and {noise:.3g} for chance."
    return Check("answers PSI", found <= limit + noise, found, f"<= {limit + noise:.3g}", note=note)


def _pairs(counts: Counts, limit: float) -> list[Check]:
    pairs = counts.pairs
    count, differing = int(pairs.get("count") or 0), int(pairs.get("differing") or 0)
    mean, largest = pairs.get("mean_difference"), pairs.get("largest_difference")
    note = f"Of {count} requests that both answered, {differing} were answered otherwise."
    return [
        Check("mean difference", mean is None or mean <= limit, mean, f"<= {limit:g}", note=note),
        Check("largest difference", True, largest, severity="warning", note="Of one answer; told, not judged."),
    ]
