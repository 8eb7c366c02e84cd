"""How often a release errs: equal candidates that are taken back, worse ones that are promoted, and requests needed.

    python -m benchmarks.releases [--trials 200] [--only TEXT] [--json FILE]

Simulated live requests go through the router's own counting and the rules' own decision, with the defaults of the
trigger form, looked at every `LOOK` requests: every five seconds at forty requests a second. A release goes on until
it is decided or its requests have come. Latency is lognormal; an answer is one number, or a batch of a thousand similar
ones. A worse candidate is as much worse as a margin allows, which is where promoting it is most likely.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from airtight.rollout import rules
from airtight.rollout.arm_metrics import Arm, Counts, Pairs
from airtight.rollout.rules import PROMOTE, ROLL_BACK, UNDECIDED, Margins
from airtight.rollout.state import CANARY, SHADOW, SPLIT
from serving.router import arm_metrics as counted

LOOK = 200
ROWS = 1000
"""Of a batch."""
_LATENCY_MS, _SPREAD = 10.0, 0.5
_OK, _REFUSED, _FAILED = 200, 400, 500


@dataclass(frozen=True)
class Traffic:
    """Live requests and a candidate.

    Args:
      failed: Share of requests that the stable version fails.
      refused: Share that is refused, whichever version is asked; callers differ in it.
      batches: Share that are batches of similar rows.
      callers: How many there are; the largest has a tenth of all requests.
      more_failed: Share that the candidate fails in addition.
      more_refused: Share that it refuses in addition.
      more_slow: Share that it answers twenty times as slowly.
      shift: Of its answers.
      mode: Of the release.
      share: The candidate's.
      requests: So many come, then the release has to end; None for 1.5 times those that were needed at its beginning.
    """

    failed: float = 0.0
    refused: float = 0.0
    batches: float = 0.0
    callers: int = 400
    more_failed: float = 0.0
    more_refused: float = 0.0
    more_slow: float = 0.0
    shift: float = 0.0
    mode: str = CANARY
    share: float = 0.1
    requests: int | None = None


_LOW, _HIGH = Traffic(failed=0.005, refused=0.03), Traffic(failed=0.02, refused=0.05)
_BATCHES = Traffic(batches=0.01)
EQUAL = {
    f"{name}, {length}": replace(traffic, requests=requests)
    for name, traffic in {
        "no failures": Traffic(),
        "0.5 % failures, 3 % refused": _LOW,
        "2 % failures, 5 % refused": _HIGH,
        "1 % batches of 1,000 rows": _BATCHES,
        "1 % batches, 0.5 % failures, 3 % refused": replace(_LOW, batches=0.01),
    }.items()
    for length, requests in {"2,000 requests": 2000, "6,000 requests": 6000, "1.5 times the needed": None}.items()
} | {
    "0.5 % failures, 3 % refused, a half each": replace(_LOW, share=0.5),
    "0.5 % failures, 3 % refused, shadow of a half": replace(_LOW, mode=SHADOW, share=0.5),
    "0.5 % failures, 3 % refused, split, 400 callers": replace(_LOW, mode=SPLIT, share=0.5, requests=40_000),
}
WORSE = {
    "fails 1 % more, of 0.5 %": replace(_LOW, more_failed=0.01),
    "fails 1 % more, of 0.5 %, 6,000 requests": replace(_LOW, more_failed=0.01, requests=6000),
    "fails 1 % more, of 2 %": replace(_HIGH, more_failed=0.01),
    "fails 1 % more, of 0.5 %, a half each": replace(_LOW, more_failed=0.01, share=0.5),
    "fails 1 % more, of 0.5 %, shadow of a half": replace(_LOW, more_failed=0.01, mode=SHADOW, share=0.5),
    "fails 1 % more, of 0.5 %, split, 400 callers": replace(
        _LOW, more_failed=0.01, mode=SPLIT, share=0.5, requests=40_000
    ),
    "refuses 2 % more, of 3 %": replace(_LOW, more_refused=0.02),
    "2 % more are slow": replace(_LOW, more_slow=0.02),
    "answers are shifted by 0.05": replace(_BATCHES, shift=0.05),
}
BAD = {
    "fails 5 % more, of 0.5 %": replace(_LOW, more_failed=0.05),
    "fails half of its requests": replace(_LOW, more_failed=0.5),
    "refuses all": replace(_LOW, more_refused=1.0),
    "answers are shifted by 0.2": replace(_LOW, shift=0.2),
}


@dataclass(frozen=True)
class Result:
    """How one release ended, and after how many requests to both versions."""

    decision: str
    requests: int


def release(traffic: Traffic, seed: int, margins: Margins | None = None) -> Result:
    """Simulates one release.

    Args:
      traffic: Its requests.
      seed: Of the draws.
      margins: Its margins; None for the defaults.
    """
    rng = np.random.default_rng(seed)
    margins = margins or Margins()
    last = traffic.requests or int(1.5 * needed(traffic, margins))
    split, shadow = traffic.mode == SPLIT, traffic.mode == SHADOW
    callers = rng.dirichlet(np.full(traffic.callers, 0.5)) if split else np.ones(1)
    # Callers differ: most of what is refused comes from a few.
    refusals = np.minimum(0.5, traffic.refused * rng.gamma(0.5, 2.0, len(callers)))
    tried = rng.random(len(callers)) < traffic.share
    counts = counted.Counts()
    for start in range(0, last, LOOK):
        size = min(LOOK, last - start)
        caller = rng.choice(len(callers), size, p=callers)
        refused = rng.random(size) < (refusals[caller] if split else traffic.refused)
        assigned = (tried[caller] if split else rng.random(size) < traffic.share).tolist()
        centers = rng.beta(1.2, 4.0, size)
        answers = [
            rng.normal(center, 0.02, ROWS).clip(0.0, 1.0) if batch else np.array([center])
            for center, batch in zip(centers, rng.random(size) < traffic.batches, strict=True)
        ]
        ours, theirs = (_outcomes(traffic, candidate, refused, answers, rng) for candidate in (False, True))
        for place in range(size):
            group = int(caller[place]) % counted.CELLS if split else None
            if assigned[place] and not shadow:
                _count(counts.candidate, theirs[place], group)
                continue
            _count(counts.stable, ours[place], group)
            if assigned[place]:
                _count(counts.candidate, theirs[place], None)
                counts.pairs.add_outcomes(ours[place], theirs[place])
        decision = rules.decide(_as_read(counts, traffic), margins, detail=False).decision
        if decision != UNDECIDED:
            return Result(decision, start + size)
    return Result(UNDECIDED, last)


def needed(traffic: Traffic, margins: Margins) -> float:
    """Requests that a release is told to need before it begins; what is known is ten thousand requests."""
    known = Arm(requests=10_000, failed=round(1e4 * traffic.failed), refused=round(1e4 * traffic.refused))
    requests = rules.needed(known, traffic.mode, traffic.share, margins).more
    assert requests is not None
    return requests


def _outcomes(
    traffic: Traffic, candidate: bool, refused: np.ndarray, answers: list[np.ndarray], rng: np.random.Generator
) -> list[counted.Outcome]:
    """What one version answers to requests."""
    size = len(answers)
    failed = rng.random(size) < traffic.failed + candidate * traffic.more_failed
    refused = refused | (rng.random(size) < candidate * traffic.more_refused)
    slow = rng.random(size) < candidate * traffic.more_slow
    codes = np.where(refused, _REFUSED, np.where(failed, _FAILED, _OK)).tolist()
    milliseconds = (_LATENCY_MS * rng.lognormal(0.0, _SPREAD, size) * np.where(slow, 20.0, 1.0)).tolist()
    shift = traffic.shift if candidate else 0.0
    return [
        counted.Outcome(code, (numbers + shift).tolist() if code == _OK else None, took)
        for code, numbers, took in zip(codes, answers, milliseconds, strict=True)
    ]


def _count(arm: counted.Arm, outcome: counted.Outcome, group: int | None) -> None:
    """As the router counts an answer."""
    for part in arm.counted(group):
        part.traffic.add(outcome.code, outcome.milliseconds)
        if outcome.numbers is not None:
            part.numbers.add(outcome.numbers)


def _as_read(counts: counted.Counts, traffic: Traffic) -> Counts:
    stable, candidate = Arm.of(counts.stable.as_dict(1)), Arm.of(counts.candidate.as_dict(2))
    return Counts("simulated", traffic.mode, traffic.share, stable, candidate, Pairs.of(counts.pairs.as_dict()))


def measured(traffic: Traffic, trials: int, pool: ProcessPoolExecutor | None = None) -> dict[str, float]:
    """Shares of releases by how they ended, and the requests that promoted ones took."""
    run = partial(release, traffic)
    results = list(pool.map(run, range(trials), chunksize=5)) if pool else [run(seed) for seed in range(trials)]
    ended = Counter(result.decision for result in results)
    took = [result.requests for result in results if result.decision == PROMOTE]
    back = [result.requests for result in results if result.decision == ROLL_BACK]
    return {
        "trials": trials,
        "promoted": ended[PROMOTE] / trials,
        "rolled back": ended[ROLL_BACK] / trials,
        "undecided": ended[UNDECIDED] / trials,
        "needed before": round(needed(traffic, Margins())),
        "promoted after, median": float(np.median(took)) if took else float("nan"),
        "rolled back after, median": float(np.median(back)) if back else float("nan"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--json", type=Path, help="write the rates here too")
    args = parser.parse_args()
    rates: dict[str, dict[str, float]] = {}
    with ProcessPoolExecutor() as pool:
        for group, scenarios in {"worse": WORSE, "equal": EQUAL, "bad": BAD}.items():
            for name, traffic in scenarios.items():
                if args.only in f"{group}: {name}":
                    rates[f"{group}: {name}"] = measured(traffic, args.trials, pool)
                    print(f"{group}: {name}: {json.dumps(rates[f'{group}: {name}'])}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rates, indent=1))


if __name__ == "__main__":
    main()
