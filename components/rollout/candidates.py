"""Which version a release tries, and whether it may."""

from __future__ import annotations

from collections.abc import Mapping

from airtight.errors import TerminalError
from airtight.rollout import state
from components.modelling.registered import Registered
from components.modelling.served import Choice
from components.rollout import switch

LATEST = "latest"


def check_share(mode: str, share: float) -> None:
    """Refuses a share of the requests that cannot be used.

    Raises:
      TerminalError: It is none, or leaves nothing to compare with.
    """
    # Where nobody is answered by the stable version there is nothing to compare with.
    if not 0 < share <= 1 or (share == 1 and mode != state.SHADOW):
        raise TerminalError(
            "The candidate's share cannot be used.",
            expected="over 0 and below 1, or up to 1 in shadow mode",
            received=share,
            remedy="Correct the share, such as 0.1.",
        )


def unwanted(choice: Choice, trial: state.Release) -> str:
    """Why a release that a push asked for is not begun, in one sentence; empty where it is."""
    if choice.is_a_persons:
        by = f" by {choice.by}" if choice.by else ""
        why = f"version {choice.pinned} was chosen{by} at {choice.at}, and a push does not override a person"
    elif trial.candidate <= trial.stable:
        why = "it is served already" if trial.candidate == trial.stable else f"{trial.stable} is served, which is newer"
    else:
        return ""
    return f"No release of version {trial.candidate} of {trial.model} was begun: {why}."


def choose(version: str, known: Mapping[int, Registered], stable: int, model: str) -> Registered:
    """The version that is to be released.

    Args:
      version: A number, or LATEST.
      known: All versions, by number.
      stable: The one that is served; 0 for none.
      model: The model's name.

    Raises:
      TerminalError: There is no such version, or none is served.
    """
    there = ", ".join(map(str, sorted(known, reverse=True))) or "none"
    number = max(known, default=0) if version == LATEST else int(version) if version.isdecimal() else 0
    if number not in known or not stable:
        raise TerminalError(
            f"There is no such version of {model} to release."
            if stable
            else f"No version of {model} is served to compare with.",
            expected=f"{LATEST} or a number of {there}, while another version is served",
            received=f"{version!r}, while {stable or 'no version'} is served",
            remedy="Choose another version, or push one first.",
        )
    return known[number]


def check_can_be_tried(candidate: Registered, stable: int, model: str) -> None:
    """Refuses a candidate that is served already, or whose files are damaged.

    Raises:
      TerminalError: It is one of these.
    """
    if candidate.number == stable:
        raise TerminalError(
            f"Version {stable} of {model} is served already.",
            expected="a version that is not served yet",
            received=f"version {stable}",
            remedy="Push a newer one with `release=canary`, or name another.",
        )
    if fault := candidate.fault():
        raise switch.broken(candidate.number, model, fault)
