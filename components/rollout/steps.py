"""A release from its beginning to its end, in steps between which a kill leaves what the next one can clear away.

`models.config` has both versions loaded, `releases.json` says to the router which share of the requests the candidate
gets. The first is marked before the second is written and keeps the mark until the second is clean, so whoever finds a
mark knows that a release is under way, or was broken off. No request is without an answer at any time:

- Begin: the stable version is the only one and has its label; the router sends every request to it by its number; the
  candidate is loaded and named `canary`; the router gives it its share.
- End: the router sends every request to the winner by its number; the loser is unloaded; the router forgets the
  release; what was chosen is chosen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airtight.errors import TerminalError, TransientError
from airtight.rollout import arm_metrics, state
from airtight.rollout.state import Release
from components.modelling.model_server import SERVER_VARIABLE, ModelServer
from components.modelling.served import CANARY, RELEASE, STABLE, Choice, Served
from components.rollout import switch

log = logging.getLogger(__name__)

SETTLE_S = 0.5
"""The router has said that no later request goes to a version; the server keeps it so long for those on their way."""


@dataclass(frozen=True)
class Place:
    """Where a model is served.

    Args:
      served: The models.
      server: The servers, or None.
      router: The router's REST address; empty where there is none.
      timeout_s: Servers and router have so long for each step.
    """

    served: Served
    server: ModelServer | None
    router: str
    timeout_s: float = 120.0

    @classmethod
    def named(cls, serving_root: str, server_url: str, router_url: str, timeout_s: float) -> Place:
        """From a component's parameters, the environment's where they are empty."""
        server = ModelServer.named(server_url)
        return cls(switch.served_in(serving_root), server, arm_metrics.address(router_url), timeout_s)

    def check_live(self) -> None:
        """Sees that there are live requests to try a version on.

        Raises:
          TerminalError: No server or no router is named.
        """
        lacking = [
            *([] if self.server else [f"a model server (server_url, {SERVER_VARIABLE})"]),
            *([] if self.router else [f"a router (router_url, {arm_metrics.VARIABLE})"]),
        ]
        if lacking:
            raise TerminalError(
                "A release needs live requests.",
                expected="a model server and a router in front of it",
                received=f"none named: {', '.join(lacking)}",
                remedy="Start the local services, or name both.",
            )


def begin(place: Place, release: Release, *, before: Choice, owner: str) -> None:
    """Gives the candidate its share of the requests; fails with everything as it was.

    Args:
      place: Where; it must have a server and a router.
      release: The release; its share is what the candidate gets in the end, and later than `until` it counts as broken
        off.
      before: What is chosen, settled.
      owner: Whose release it is; empty where nobody says.

    Raises:
      TerminalError: The server cannot load the candidate.
      TransientError: A server or the router cannot be reached or does not follow in time.
    """
    served, server, model = place.served, place.server, release.model
    assert server is not None
    origin = {"at": release.since, "by": RELEASE, "reason": f"version {release.candidate} is tried ({release.mode})"}
    only = dataclasses.replace(
        Choice.only(release.stable, **origin),
        trial=release.candidate,
        release=release.id,
        owner=owner,
        until=release.until,
        after=before,
    )
    both = dataclasses.replace(only, versions=tuple(sorted((release.stable, release.candidate))))
    # The router routes by number from here on, so that nobody is answered by a candidate that is only being loaded.
    idle = dataclasses.replace(release, share=0.0)
    try:
        served.choose(model, only)
        switch.await_alone(server, model, release.stable, only, place.timeout_s)
        _tell(place, model, idle)
        served.choose(model, both)
        switch.await_loaded(server, model, release.candidate, place.timeout_s)
        switch.log_refusal(server, model, release.candidate)
        # TensorFlow Serving refuses the whole file where a label names a version that it has not loaded.
        served.choose(model, dataclasses.replace(both, labels={**only.labels, CANARY: release.candidate}))
        _await_label(place, model, CANARY, release.candidate)
        _tell(place, model, release)
    except BaseException:
        # Also when the task is stopped: nobody would end what no Release tells of.
        log.warning("The release of version %d of %s is taken back.", release.candidate, model)
        with contextlib.suppress(TransientError):
            after = settled_after(both, served.versions(model), "the release could not begin")
            end(place, model, winner=release.stable, after=after)
        raise


def end(place: Place, model: str, *, winner: int, after: Choice) -> None:
    """Ends the release that `models.config` tells of; does again what a killed end left half done.

    Args:
      place: Where.
      model: The model.
      winner: The version that answers every request from now on.
      after: What is chosen then.

    Raises:
      TransientError: A server or the router does not follow in time; called again, it goes on from there.
    """
    served, server = place.served, place.server
    choice = served.choice(model)
    entry = state.read(served.root).get(model)
    if entry is not None and len(choice.versions) > 1:
        # A shadow's share is asked and not answered: where the candidate takes over, it has to answer.
        takes_over = {"share": 1.0, "mode": state.CANARY} if winner == entry.candidate else {"share": 0.0}
        _tell(place, model, dataclasses.replace(entry, until="", **takes_over), needed=False)
        if place.router:
            time.sleep(SETTLE_S)
    only = dataclasses.replace(choice, versions=(winner,), labels={STABLE: winner}, after=after)
    served.choose(model, only)
    if server is not None:
        switch.await_alone(server, model, winner, only, place.timeout_s)
    _tell(place, model, None, needed=False)
    served.choose(model, after)


def clear(place: Place, model: str, why: str, *, stays: bool = False) -> tuple[Choice, int]:
    """What is chosen of a model, once what a promotion or a release left there is taken back.

    The caller sees to it that nobody else changes what is served of the model (`Served.alone`).

    Args:
      place: Where.
      model: The model.
      why: Why a release that is under way is ended; it is kept where a version stays because of it.
      stays: Whether the stable version stays the only one in any case: something else is chosen right after.

    Returns:
      The choice, and the candidate of the release that was ended, 0 for none.

    Raises:
      TransientError: A server or the router does not follow in time.
    """
    served = place.served
    choice = served.choice(model)
    if choice.release:
        taken_over = choice.versions == (choice.trial,)
        winner = choice.trial if taken_over else choice.labels[STABLE]
        log.warning(
            "The release of version %d of %s, under way since %s, is %s: %s.",
            *(choice.trial, model, choice.at, "carried through" if taken_over else "taken back", why),
        )
        after = settled_after(choice, served.versions(model), why, stays=stays)
        end(place, model, winner=winner, after=after)
        return after, choice.trial
    if choice.trial:
        log.warning("A promotion of %s to %d was broken off before; it is taken back.", model, choice.trial)
        served.choose(model, choice.settled)
    if state.read(served.root).get(model) is not None:
        log.warning("%s tells of a release of %s that is none; it is removed.", state.FILE, model)
        _tell(place, model, None, needed=False)
    return choice.settled, 0


def settled_after(choice: Choice, versions: list[int], why: str, *, stays: bool = False) -> Choice:
    """What is chosen when a release is ended without the candidate; what was chosen before, but never the candidate.

    Args:
      choice: What is chosen during the release.
      versions: The versions that are there.
      why: Why it is ended.
      stays: As in `clear`.
    """
    after = choice.settled
    if not choice.release or choice.versions == (choice.trial,):
        return after
    # Where the highest is served and the candidate is that, or where a push left the choice to this release, the
    # stable version stays, and the file says why.
    follows = not after.versions and (stays or max(versions, default=0) == choice.trial)
    if after.is_left_to_a_release or follows:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        reason = f"version {choice.trial} was tried and taken back: {why}"
        return Choice.only(choice.labels[STABLE], at=at, by=RELEASE, reason=reason)
    return after


def check_nothing_under_way(place: Place, model: str, owner: str) -> None:
    """Sees that there is one release at a time; one that was broken off is none.

    Raises:
      TerminalError: Another one is under way.
    """
    choice = place.served.choice(model)
    if choice.release and not (owner and choice.owner == owner) and not is_broken_off(choice):
        raise TerminalError(
            f"A release of {model} is under way.",
            expected="one release at a time",
            received=f"version {choice.trial} is tried since {choice.at}"
            + (f", by {choice.owner}" if choice.owner else ""),
            remedy="Wait until it has ended, or end it: `make rollback`, or promote the version that is to stay. "
            f"After {choice.until} it counts as broken off.",
        )


def clear_broken_off(place: Place, model: str) -> None:
    """Takes back a release that should have ended by now: nothing waits for it for ever.

    Raises:
      TransientError: A server or the router does not follow in time.
    """
    with place.served.alone(model):
        if is_broken_off(place.served.choice(model)):
            clear(place, model, "nobody ended it in time")


def is_broken_off(choice: Choice) -> bool:
    """Whether a release should have ended by now, so that nobody will end it who began it."""
    return bool(choice.release and choice.until) and datetime.fromisoformat(choice.until) <= datetime.now(UTC)


def stable_of(choice: Choice) -> int:
    """The version that a release under way compares with, or that took over; 0 where there is none."""
    return choice.labels.get(STABLE, 0) if choice.release else 0


def _tell(place: Place, model: str, release: Release | None, *, needed: bool = True) -> None:
    """Writes what the router is to follow, and waits until it does.

    Args:
      place: Where.
      model: The model.
      release: The release; None for none.
      needed: Whether a router that is away is a fault. One that is away sends no request anywhere.
    """
    with _alone_with_the_file(place.served):
        releases = state.read(place.served.root)
        if release is None and model not in releases:
            return
        releases.pop(model, None)
        state.write(place.served.root, releases | ({model: release} if release else {}))
    if not place.router:
        return
    what = f"the release {release.id} at a share of {release.share:g}" if release else f"no release of {model}"
    try:
        _await_router(place, lambda releases: _follows(releases.get(model), release), what)
    except TransientError as error:
        if needed or isinstance(error, _NotInTime):
            raise
        log.warning("The router was not asked: %s", error)


def _follows(listed: dict[str, Any] | None, release: Release | None) -> bool:
    if listed is None or release is None:
        return listed is None and release is None
    return (listed["id"], listed["mode"], listed["share"]) == (release.id, release.mode, release.share)


class _NotInTime(TransientError):
    """The router answers, and does not do what the file says."""


def _await_router(place: Place, true: Callable[[dict[str, Any]], bool], what: str) -> None:
    switch.wait_for(
        lambda: true(arm_metrics.status(place.router)["releases"]),
        place.timeout_s,
        lambda: _NotInTime(
            "The router did not follow in time.",
            expected=f"{what} within {place.timeout_s:g} s",
            received=f"another status at {place.router}{arm_metrics.PATH}",
            remedy=f"See that the router reads {place.served.root / state.FILE}, and retry the task.",
        ),
    )


def _await_label(place: Place, model: str, label: str, version: int) -> None:
    server = place.server
    assert server is not None
    what = f"version {version} of {model} to be called {label}"
    switch.await_server(lambda: server.labelled(model, label) == version, what, server, place.timeout_s)


@contextlib.contextmanager
def _alone_with_the_file(served: Served) -> Iterator[None]:
    served.root.mkdir(parents=True, exist_ok=True)
    with (served.root / f".{state.FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
