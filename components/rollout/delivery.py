"""A version from its folder to the requests: copied, entered, served, or everything is left as it was."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import shutil
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from airtight.errors import AirtightError, TerminalError, TransientError
from airtight.files import digest_of_tree, new_folder, remove_abandoned
from airtight.interval import Interval
from airtight.rollout import arm_metrics
from components.modelling import version_number
from components.modelling.model_server import ModelServer
from components.modelling.served import HIGHEST, RELEASE, Choice, Served, versions_in
from components.rollout import steps, switch
from components.rollout.steps import Place

log = logging.getLogger(__name__)

POLL_S = 0.1
AT_ONCE, CANARY = HOW = "at_once", "canary"
"""How a newer version comes before the requests: as soon as the server has it, or by a release that tries it first."""


class Delivered(NamedTuple):
    """What became of a push.

    Args:
      version: The version.
      summary: What was done, in one sentence.
      awaits_release: Whether it is registered only, and left to a release.
      took_over: Whether it serves, or a version of a later interval does: it is the champion of its time. It is not
        where a release or a person keeps an earlier one.
      overridden: What a release had left, in whose place it serves; empty where it is not in such a place.
    """

    version: int
    summary: str
    awaits_release: bool
    took_over: bool
    overridden: str = ""


def deliver(
    source: Path,
    digest: str,
    base_path: Path,
    interval: Interval,
    *,
    zone: str,
    server: ModelServer | None,
    timeout_s: float,
    release: str = AT_ONCE,
) -> Delivered:
    """Makes a version visible and sees it served, or leaves everything as it was.

    Args:
      source: The SavedModel.
      digest: `digest_of_tree(source)`.
      base_path: Folder of the model's versions.
      interval: The data interval that the version is named by.
      zone: IANA time zone of the days in version numbers of ten digits.
      server: The server to ask, or None.
      timeout_s: It has so long.
      release: `AT_ONCE` or `CANARY`.

    Returns:
      What was done.

    Raises:
      TransientError: The server cannot be reached or is not done in time, or another push took the version.
      TerminalError: The server cannot load the model.
    """
    if server is not None:
        server.versions(base_path.name)  # A server that is away is noticed before anything is visible.
    for name in remove_abandoned(base_path):
        log.info("Removed %s, which a push that was killed has left", name)
    version, is_new = _version_for(digest, base_path, interval, zone)
    served = Served(base_path.parent)
    steps.clear_broken_off(Place(served, server, arm_metrics.address(), timeout_s), base_path.name)
    # Before the version is there: a server that follows the highest would take it.
    left = _leave_to_a_release(served, server, base_path.name, version, timeout_s) if release == CANARY else _Left()
    try:
        if is_new:
            _publish(source, digest, base_path / str(version))
    except BaseException:
        _take_up_again(served, base_path.name, left)
        raise
    replaced = _Left()
    try:
        # After the version is there: TensorFlow Serving complains of a model that has none.
        served.enter(base_path.name)
        if release == AT_ONCE:
            replaced = _take_over(served, server, base_path.name, version, timeout_s)
        if server is None:
            summary = _kept_back(served.choice(base_path.name), version)
        else:
            summary = await_served(server, base_path, version, timeout_s)
    except BaseException as error:
        # Before the version goes: the highest of the others may be one that a release refused.
        _take_up_again(served, base_path.name, replaced)
        # Also when the task is stopped: what no PushedModel tells of must not be served. A version that was there
        # before stays through that and through an outage of the server, but not when it does not load.
        if is_new or (isinstance(error, AirtightError) and not error.transient):
            _take_back(base_path / str(version))
            log.warning("Version %d was taken back", version)
            _take_up_again(served, base_path.name, left)
        raise
    done = f"Version {version} of {base_path.name} " + (
        "is pushed" if is_new else "was there already, nothing was copied"
    )
    took_over = not _is_behind(served.choice(base_path.name), version)
    overridden = replaced.before.in_words if replaced.before else ""
    return Delivered(version, f"{done}{summary}.", left.awaits, took_over, overridden)


def await_served(server: ModelServer, base_path: Path, version: int, timeout_s: float) -> str:
    """Waits until the server serves a version, or need not because a later one is there or a person chose another.

    Returns:
      The rest of a sentence on what the server says.

    Raises:
      TransientError: The server cannot be reached, is not done in time, or gives no answer.
      TerminalError: The server cannot load the version.
    """
    model = base_path.name
    deadline = time.monotonic() + timeout_s
    while True:
        if reason := _kept_back(Served(base_path.parent).choice(model), version):
            return reason
        states = server.versions(model)
        known = states.get(version)
        later = [number for number, entry in states.items() if number > version and entry.state == "AVAILABLE"]
        if known is not None and known.state == "AVAILABLE":
            refusal = server.refusal_of_a_row(model, version)
            return ", and the server answers with it" + (f" (a row of missing values: {refusal})" if refusal else "")
        if known is not None and known.state == "END" and known.error:
            raise TerminalError(
                f"The model server cannot load version {version} of {model}; it was taken back.",
                expected="a SavedModel that the server loads",
                received=known.error,
                remedy="Look at the training step; the version served before stays.",
            )
        if later:
            same = version_number.stem(max(later)) == version_number.stem(version)
            is_of = "a later attempt of the same interval" if same else "of a later interval"
            return f", and registered only: version {max(later)} is {is_of} and stays the served one"
        if time.monotonic() > deadline:
            raise TransientError(
                f"The model server did not serve version {version} of {model} in time.",
                expected=f"state AVAILABLE within {timeout_s:g} s",
                received=f"state {known.state}" if known else "a server that does not know the version",
                remedy=f"See that the server at {server.url} watches {base_path}, and retry the task.",
            )
        time.sleep(POLL_S)


class _Left(NamedTuple):
    """Whether a version is left to a release, and what was chosen before and since, where that was changed for it."""

    awaits: bool = False
    before: Choice | None = None
    since: Choice | None = None


def _leave_to_a_release(
    served: Served, server: ModelServer | None, model: str, version: int, timeout_s: float
) -> _Left:
    """Has the served version stay when a newer one appears, and says whether that one is left to a release.

    It is not where no version is served to compare with, where a later one is served, or where a person chose.
    """
    with served.alone(model):
        choice = served.choice(model)
        if choice.settled.is_a_persons:
            return _Left()
        current = steps.stable_of(choice) or _current(served, server, model, choice.settled, version)
        if version in (current, choice.trial) or not 0 < current < version:
            return _Left()
        at = datetime.now(UTC).isoformat(timespec="seconds")
        stays = Choice.only(current, at=at, by=RELEASE, reason=f"version {version} waits for its release")
        if choice.release:
            # The release goes on. When it ends without its candidate, the highest must not be served: it is this one.
            since = dataclasses.replace(choice, after=stays)
            served.choose(model, since)
            return _Left(True, choice, since)
        before = choice.settled
        try:
            served.choose(model, stays)
            if server is not None:
                switch.await_alone(server, model, current, stays, timeout_s)
        except BaseException:
            served.choose(model, before)
            raise
    return _Left(True, before, stays)


def _current(served: Served, server: ModelServer | None, model: str, choice: Choice, version: int) -> int:
    """The version that is served now, 0 where no other one was ever pushed."""
    current = switch.current(served, choice, server, model)
    others = [number for number in served.versions(model) if number != version]
    if not current and others:
        # A server that is only starting would take the newest of all, untried.
        raise TransientError(
            f"The model server serves no version of {model} to compare version {version} with.",
            expected=f"one of {', '.join(map(str, others))} to be AVAILABLE",
            received="none",
            remedy="Retry the task when the server has loaded it; where all are broken, push with `release=at_once`.",
        )
    return current


def _take_over(served: Served, server: ModelServer | None, model: str, version: int, timeout_s: float) -> _Left:
    """Has the highest be served again where a release left another one, and this is the highest."""
    with served.alone(model):
        choice = served.choice(model)
        if choice.release or not choice.settled.is_left_to_a_release or version != max(served.versions(model)):
            return _Left()
        current = switch.current(served, choice.settled, server, model)
        switch.change(served, server, model, choice.settled, HIGHEST, (current, version), timeout_s)
        return _Left(False, choice.settled, HIGHEST)


def _take_up_again(served: Served, model: str, left: _Left) -> None:
    """Nothing is chosen for the sake of a version that is not there after all, or whose push fails."""
    if left.before is not None:
        with served.alone(model):
            if served.choice(model) == left.since:
                served.choose(model, left.before)


def _is_behind(choice: Choice, version: int) -> bool:
    """Whether an earlier version stays in this one's place, because of a release or a person.

    A later one that stays says nothing against it: in data time, it is not there yet.
    """
    stays = steps.stable_of(choice) or choice.pinned
    return 0 < stays < version


def _kept_back(choice: Choice, version: int) -> str:
    """Why a version is not served, as the rest of a sentence; empty where nothing keeps another one."""
    if choice.release:
        since = f" since {choice.at}" if choice.at else ""
        if version == choice.trial:
            return f", and a release tries it beside {steps.stable_of(choice)}{since}"
        if version != steps.stable_of(choice):
            return (
                f", and registered only: a release tries version {choice.trial} beside {steps.stable_of(choice)}"
                f"{since}, and nothing else is served until it has ended"
            )
        return ""
    if choice.pinned in (0, version):
        return ""
    when = f" on {choice.at}" if choice.at else ""
    not_loaded = "The server has not loaded this one: that it can be served, try_serving found"
    if choice.settled.is_left_to_a_release:
        return (
            f", and registered only: version {choice.pinned} stays{f' since {choice.at}' if choice.at else ''} "
            f"({choice.settled.reason.rstrip('.')}); a release of this one, or `promote`, puts it before the requests. "
            f"{not_loaded}"
        )
    return (
        f", and registered only: version {choice.pinned} was promoted by hand{when} and stays; `promote latest` lets "
        f"newer versions be served again. {not_loaded}"
    )


def _version_for(digest: str, base_path: Path, interval: Interval, zone: str) -> tuple[int, bool]:
    """The version of this content for this interval, and whether it is still to be copied."""
    existing = versions_in(base_path)
    stem, day = version_number.stem_for(interval, zone, existing), version_number.day_stem(interval, zone)
    of_stem = {key: [number for number in existing if version_number.stem(number) == key] for key in (stem, day)}
    attempts = of_stem[stem] or of_stem[day]
    # The last attempt alone: an earlier one of this content would not be the one that is served.
    if attempts and digest_of_tree(base_path / str(attempts[-1])) == digest:
        return attempts[-1], False
    return version_number.next_attempt(stem, existing), True


def _publish(source: Path, digest: str, target: Path) -> None:
    try:
        with new_folder(target) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
            if digest_of_tree(temporary) != digest:
                raise TransientError(
                    "The model changed while it was copied.",
                    expected=f"the digest {digest}",
                    received=f"another one in {temporary}",
                    remedy="Retry the task; nothing was pushed.",
                )
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        raise TransientError(
            f"Another push took version {target.name} at the same time.",
            expected=f"{target} not to be there",
            received="a folder of that name",
            remedy="Retry the task: it takes the next version, or finds its own content there.",
        ) from error


def _take_back(path: Path) -> None:
    """Removes a version at once for whoever looks, then its files."""
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex}.taken-back")
    os.rename(path, hidden)
    shutil.rmtree(hidden)
