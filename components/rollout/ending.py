"""The end of a release: the candidate takes over, or what was served before stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from components.modelling.served import RELEASE, STABLE, Choice
from components.rollout import steps, switch
from components.rollout.steps import Place

if TYPE_CHECKING:
    from components.artifacts import Release


@dataclass(frozen=True)
class End:
    """What became of a release.

    Args:
      served: The version that is served now.
      summary: In a sentence or two.
      outcome: "promoted", "taken back", "ended before" where somebody else did, or "not begun".
      overridden: The person's choice that a promotion took the place of, in words.
      has_record: Whether somebody else has written down who chose what is served.
    """

    served: int
    summary: str
    outcome: str
    overridden: str = ""
    has_record: bool = False


def end(place: Place, release: Release, *, promoted: bool, reason: str, check: Callable[[], None]) -> End:
    """Ends a release, or finds that it has ended; the caller holds the model's lock.

    Args:
      place: Where the model is served.
      release: What was begun; one without an id changes nothing.
      promoted: What was decided.
      reason: Why.
      check: Called before a candidate takes over; raises where that could not be written down.

    Raises:
      TransientError: A server or the router cannot be reached or is not done in time.
    """
    model, stable, candidate = release.model, release.stable, release.candidate
    if not release.release:
        return End(stable, f"{reason} Nothing was changed.", "not begun")
    choice = place.served.choice(model)
    if choice.release != release.release:
        served = switch.current(place.served, choice.settled, place.server, model)
        summary = f"The release of version {candidate} of {model} had been ended before; version {served} is served."
        # Whoever chose another version has a record of that; nobody chose what is served as the highest.
        has_record = served != candidate and bool(choice.settled.versions)
        return End(served, summary, "ended before", has_record=has_record)
    overridden = ""
    if choice.versions in ((candidate,), (stable,)):
        # Decided by an earlier attempt, which was stopped: what it began is carried through.
        promoted = choice.versions == (candidate,)
        after = choice.settled
    elif promoted:
        check()
        # What takes the place of a person's choice stays as that one would: no push overrides it.
        by = choice.settled.by if choice.settled.is_a_persons else RELEASE
        at = datetime.now(UTC).isoformat(timespec="seconds")
        after = Choice.only(candidate, at=at, by=by, reason=reason)
        overridden = choice.settled.in_words
    else:
        after = steps.settled_after(choice, place.served.versions(model), reason)
    steps.end(place, model, winner=candidate if promoted else stable, after=after)
    served = candidate if promoted else stable
    summary = (
        f"Version {candidate} of {model} is served in place of {stable}, as {STABLE}. {reason}"
        if promoted
        else f"Version {stable} of {model} is served as before, without {candidate}. {reason}"
    )
    highest = max(place.served.versions(model))
    if not after.versions and highest != stable:
        summary += f" The highest is served again, which is {highest} meanwhile."
        served = highest
    return End(served, summary, "promoted" if served == candidate else "taken back", overridden)
