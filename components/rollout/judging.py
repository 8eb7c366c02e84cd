"""How a release is judged: it is watched until its rules decide, and the rules become a verdict for people."""

from __future__ import annotations

import logging
import time
from typing import Any

from airtight.errors import TerminalError, TransientError
from airtight.rollout import arm_metrics, rules, state
from airtight.rollout.arm_metrics import Arm, Counts
from airtight.rollout.comparisons import Comparison
from airtight.rollout.rules import PROMOTE, ROLL_BACK, Margins, Standing
from airtight.verdict import Check

log = logging.getLogger(__name__)

POLL_S, LOG_S = 1.0, 60.0
"""Seconds between two looks at the router, and between two lines in the log."""


def needed(router_url: str, release: state.Release, margins: Margins) -> str:
    """How many requests the release will need, by what the router has seen of the served version; in a sentence."""
    try:
        traffic = arm_metrics.status(router_url).get("models", {}).get(release.model) or {}
    except TransientError as error:
        return f"How many requests that takes is not known: {error.args[0]}"
    known = Arm.of(traffic)
    standing = rules.needed(known, release.mode, release.share, margins)
    if standing.more is None:
        return "At these margins no number of requests decides."
    counts = Counts(release.id, release.mode, release.share)
    rates = f"{known.requests} requests before, of which {known.failed} failed and {known.refused} were refused"
    more = "; by callers it takes more" if release.mode == state.SPLIT else ""
    return f"By {rates}, it needs {rules.in_requests(counts, standing.more)}{more}."


def _counts(release: Any, url: str) -> Counts:
    counts = Counts.of(arm_metrics.status(url), release.model)
    if counts is None or counts.id != release.release:
        raise TerminalError(
            f"The release of version {release.candidate} of {release.model} is no longer under way.",
            expected=f"the router to follow the release {release.release}",
            received="none" if counts is None else f"the release {counts.id}",
            remedy="A promotion or rollback has ended it. Start another release if it is still wanted.",
        )
    return counts


def watch(release: Any, margins: Margins, url: str, watched: str) -> Counts:
    """Watches until it is decided or its time is over. A router that restarts ends no release.

    A task that watched has seen that before, and figures move: where they no longer say what it saw, this goes on.

    Args:
      release: The artifact of the release.
      margins: Its margins.
      url: The router's address.
      watched: Why a task that watched has ended; empty where none did.

    Raises:
      TerminalError: The router does not follow the release.
      TransientError: The router cannot be reached when the time is over.
    """
    counts: Counts | None
    logged = -LOG_S
    while True:
        try:
            counts = _counts(release, url)
        except TransientError as error:
            log.info("The router cannot be reached: %s", error)
            counts = None
        why = rules.over(
            counts,
            since=release.since,
            minutes=release.minutes,
            longest_minutes=release.longest_minutes,
            margins=margins,
        )
        if why or (watched and not watched.startswith(rules.DECIDED)):
            log.info("The watching has ended: %s.", why or watched)
            return counts or _counts(release, url)
        if counts is not None and time.monotonic() - logged >= LOG_S:
            logged = time.monotonic()
            log.info("%s.", rules.decide(counts, margins).reason)
        time.sleep(POLL_S)


def decide(standing: Standing, counts: Counts, when_unsure: str) -> tuple[bool, str]:
    """Whether the candidate takes over, and why, in one sentence.

    Args:
      standing: Of the release.
      counts: Of the router.
      when_unsure: What becomes of a release that is not decided, `PROMOTE` or `ROLL_BACK`.
    """
    if standing.decision == PROMOTE:
        return True, f"Promoted: {standing.reason}. It is as good as the stable version, which is all that is compared."
    if standing.decision == ROLL_BACK:
        return False, f"Rolled back: {standing.reason}."
    outside = [rules.in_words(rule) for rule in standing.comparisons if rule.decides and rule.is_outside]
    if when_unsure == PROMOTE and not outside and counts.candidate.requests:
        return True, f"Promoted, as was wanted in such a case: {standing.reason}."
    also = f"; so far {'; '.join(outside)}" if outside else ""
    return False, f"Not promoted: {standing.reason}{also}."


def check(rule: Comparison) -> Check:
    """One rule for the verdict."""
    result = (
        "It is within its margin." if rule.holds else "It is outside of its margin." if rule.worse else "It is open."
    )
    if rule.more:
        result += f" It needs some {rule.more:,.0f} requests more."
    if rule.lower is not None and rule.upper is not None:
        result += f" The difference lies from {rule.lower:.2g} to {rule.upper:.2g}."
    return Check(
        rule.name,
        rule.holds,
        rule.difference,
        f"{'within' if rule.two_sided else '<='} {rule.margin:g}",
        severity="blocking" if rule.decides else "warning",
        note=result,
        interval=None if rule.lower is None or rule.upper is None else (rule.lower, rule.upper),
    )
