"""start_release, judge_release, finish_release: a version is tried on live requests, judged, and takes over or not."""

import dataclasses
import json
import logging
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight import releases, router
from airtight.errors import TerminalError, TransientError
from airtight.files import write_text
from airtight.parameters import check_choice
from airtight.router import Counts, Side
from airtight.verdict import Verdict
from components.artifacts import Promotion, Release, ReleaseDecision
from components.measures.releases import Limits, checks
from components.modelling import changing, releasing, version_number
from components.modelling.registered import Registered, latest_end, registered
from components.modelling.releasing import Place
from components.modelling.served import RELEASE, STABLE, Choice
from components.reports.release import page

log = logging.getLogger(__name__)

LATEST = "latest"
WHEN_UNSURE = PROMOTE, ROLL_BACK = "promote", "roll_back"
ASKED_BY = PERSON, PUSH = "person", "push"
RECORD, COUNTS, REPORT = "release.json", "counts.json", "report.html"
PROMOTION = "promotion.json"
GRACE = timedelta(minutes=15)
"""A release that is still there so long after its longest time was broken off."""
POLL_S = 1.0
_TO_TELL = (
    *("model", "release", "stable", "candidate", "mode", "share", "since", "minutes", "longest_minutes"),
    *("min_requests", "max_more_failed", "summary", "as_of", "interval_start", "interval_end"),
)


@component
def start_release(
    release: OutputArtifact[Release],
    model_name: Parameter[str],
    version: Parameter[str] = LATEST,
    pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
    evaluations: InputArtifact[List[standard_artifacts.ModelEvaluation]] = None,  # noqa: UP006
    mode: Parameter[str] = releases.CANARY,
    share: Parameter[float] = 0.1,
    minutes: Parameter[float] = 10.0,
    longest_minutes: Parameter[float] = 60.0,
    min_requests: Parameter[int] = 200,
    max_more_failed: Parameter[float] = 0.01,
    owner: Parameter[str] = "",
    asked_by: Parameter[str] = PERSON,
    serving_root: Parameter[str] = "",
    server_url: Parameter[str] = "",
    router_url: Parameter[str] = "",
    timeout_s: Parameter[float] = 120.0,
) -> None:
    """Has a version loaded beside the served one, and gives it its share of the live requests.

    No request is answered by the candidate before it is loaded and answered a row. When anything is in the way, the
    served version stays alone, and nothing tells of a release. What a push asked for is not begun where a person chose
    a version since, or one as new is served meanwhile: that is recorded, and is no failure.

    Args:
      release: Gets both versions, the settings, and `release.json`; its id is empty where none was begun, and its
        summary says why.
      model_name: The model.
      version: The candidate: a number, or `latest` for the highest that there is.
      pushed: What was pushed in all runs.
      evaluations: How it was judged in all runs.
      mode: canary (the share is drawn at random), split (by the request's key), or shadow (both are asked, stable
        answers).
      share: Of the requests, over 0 and up to 1.
      minutes: The candidate is watched so long.
      longest_minutes: And at most so long, where requests are few.
      min_requests: Each side should answer so many before anything is decided.
      max_more_failed: Share of failed requests that the candidate may have more than stable; clearly over it, the
        watching ends early.
      owner: Whose release it is, such as a DAG run: a release of the same owner is taken for one that was broken off.
      asked_by: `person`, or `push`: that gives way to a version that a person chose, or a newer one.
      serving_root: Folder of all served models; empty is the state folder's `models/`.
      server_url: REST addresses of the model servers, separated by commas; empty is what $AIRTIGHT_MODEL_SERVER names.
      router_url: REST address of the router; empty is what $AIRTIGHT_ROUTER names.
      timeout_s: Servers and router have so long for each step.

    Raises:
      TerminalError: There is no server, router or such version, it is served already or cannot be loaded, or another
        release is under way.
      TransientError: A server or the router cannot be reached or is not done in time.
    """
    place = Place.named(serving_root, server_url, router_url, timeout_s)
    place.check_live()
    _check_share(share)
    check_choice("asked_by", asked_by, ASKED_BY)
    with place.served.alone(model_name):
        releasing.check_nothing_under_way(place, model_name, owner)
        choice, _ = releasing.clear(place, model_name, "it was broken off, and another one begins")
        stable = changing.current(place.served, choice, place.server, model_name)
        known = registered(place.served.root / model_name, pushed or [], evaluations or [])
        candidate = _candidate(version.strip(), known, stable, model_name)
        begun = datetime.now(UTC)
        until = begun + timedelta(minutes=max(minutes, longest_minutes)) + GRACE
        told = releases.Release(
            model_name,
            uuid.uuid4().hex,
            stable,
            candidate.number,
            mode,
            share,
            begun.isoformat(timespec="seconds"),
            until.isoformat(timespec="seconds"),
        )
        release.model, release.release, release.stable, release.candidate = model_name, "", stable, told.candidate
        release.mode, release.share, release.since = mode, share, told.since
        release.minutes, release.longest_minutes = minutes, max(minutes, longest_minutes)
        release.min_requests, release.max_more_failed = min_requests, max_more_failed
        release.interval_start, release.interval_end = candidate.interval
        release.as_of = latest_end(known.values())
        release.summary = _unwanted(choice, told) if asked_by == PUSH else ""
        if not release.summary:
            _check_can_be_tried(candidate, stable, model_name)
            what = "is asked beside" if mode == releases.SHADOW else "answers beside"
            release.summary = (
                f"Version {told.candidate} of {model_name} {what} {stable} ({mode}, {share:.1%} of the requests) for "
                f"{minutes:g} minutes, until each has seen {min_requests} requests, for "
                f"{release.longest_minutes:g} at most."
            )
            releasing.begin(place, told, before=choice, owner=owner)
            # Begun is when it has its share: loading the candidate takes none of its time.
            release.release, release.since = told.id, datetime.now(UTC).isoformat(timespec="seconds")
        try:
            _write(Path(release.uri) / RECORD, {name: getattr(release, name) for name in _TO_TELL})
        except BaseException:
            # Nobody would end what no Release tells of.
            releasing.clear(place, model_name, "that it began could not be written down")
            raise
    log.info("%s", release.summary)


@component
def judge_release(
    release: InputArtifact[Release],
    decision: OutputArtifact[ReleaseDecision],
    p99_ratio: Parameter[float] = 2.0,
    p99_floor_ms: Parameter[float] = 50.0,
    mean_limit: Parameter[float] = 0.05,
    psi_limit: Parameter[float] = 0.25,
    difference_limit: Parameter[float] = 0.05,
    when_unsure: Parameter[str] = ROLL_BACK,
    watched: Parameter[str] = "",
    router_url: Parameter[str] = "",
) -> None:
    """Decides from what the router counted whether the candidate takes over; it changes nothing.

    A candidate that is not good enough is a decision, and no fault. So is a release that was not begun.

    Args:
      release: What `start_release` began.
      decision: Gets `promoted` (1 or 0) and the reason, `verdict.json` with one check for each rule, `report.html` and
        `counts.json`.
      p99_ratio: The candidate's p99 may be so many times stable's,
      p99_floor_ms: or up to so many milliseconds.
      mean_limit: The means of both sides' answers may lie so far apart.
      psi_limit: Population stability index of both sides' answers.
      difference_limit: In shadow mode, the mean difference of both answers to one request.
      when_unsure: What becomes of a release with too few requests: promote (where no other rule fails) or roll_back.
      watched: Why the watching has ended, as whoever watched tells; empty lets this step watch by itself.
      router_url: As in start_release.

    Raises:
      TerminalError: The router does not follow the release, as somebody else has ended it; `when_unsure` is neither.
      TransientError: The router cannot be reached.
    """
    check_choice("when_unsure", when_unsure, WHEN_UNSURE)
    url, what = router.address(router_url), f"{release.candidate} beside {release.stable}"
    if release.release:
        counts = _counts(release, url) if watched else _watched(release, url)
        limits = Limits(
            release.min_requests,
            release.max_more_failed,
            p99_ratio,
            p99_floor_ms,
            mean_limit,
            psi_limit,
            difference_limit,
        )
        verdict = Verdict("release", what, checks(counts, limits))
        promoted, reason = _decide(verdict, counts, release, when_unsure)
    else:
        counts = Counts("", release.mode, release.share, Side(release.stable), Side(release.candidate))
        verdict, promoted, reason, watched = Verdict("release", what, ()), False, release.summary, ""
    for check in verdict.checks:
        log.log(logging.INFO if check.passed else logging.WARNING, "%s", check)
    log.info("%s", reason)
    folder = Path(decision.uri)
    Verdict(verdict.gate, verdict.interval, verdict.checks, reason).write(folder)
    _write(folder / COUNTS, dataclasses.asdict(counts))
    title = f"Release of {release.candidate} of {release.model} beside {release.stable}"
    write_text(folder / REPORT, page(title, verdict, f"{reason} {f'Watched: {watched}.' if watched else ''}", counts))
    decision.model, decision.release, decision.promoted, decision.reason = (
        *(release.model, release.release),
        *(int(promoted), reason),
    )
    decision.interval_start, decision.interval_end = release.interval_start, release.interval_end
    log.info("The report lies in %s.", folder / REPORT)


@component
def finish_release(
    release: InputArtifact[Release],
    promotion: OutputArtifact[Promotion],
    decision: InputArtifact[ReleaseDecision] = None,
    serving_root: Parameter[str] = "",
    server_url: Parameter[str] = "",
    router_url: Parameter[str] = "",
    timeout_s: Parameter[float] = 120.0,
) -> None:
    """Has the candidate served, or what was served before, as it was decided; without a decision, the latter.

    Killed in between, it goes on from there; when somebody else has ended the release meanwhile, nothing is changed.

    Args:
      release: What `start_release` began.
      promotion: Gets what was done, and `promotion.json`.
      decision: What `judge_release` decided; none where it failed or was stopped.
      serving_root: As in start_release.
      server_url: As in start_release.
      router_url: As in start_release.
      timeout_s: As in start_release.

    Raises:
      TransientError: A server or the router cannot be reached or is not done in time.
    """
    place = Place.named(serving_root, server_url, router_url, timeout_s)
    model, stable, candidate = release.model, release.stable, release.candidate
    judged = decision is not None and decision.release == release.release
    promoted = judged and decision.promoted == 1
    reason = decision.reason if judged else "It was not judged: the step before failed or was stopped."
    if not release.release:
        reason = release.summary
    overridden, has_record = "", False
    with place.served.alone(model):
        choice = place.served.choice(model)
        if not release.release:
            served, said = stable, f"{reason} Nothing was changed."
        elif choice.release == release.release:
            if choice.versions in ((candidate,), (stable,)):
                # Decided by an earlier attempt, which was stopped: what it began is carried through.
                promoted = choice.versions == (candidate,)
                after = choice.settled
            elif promoted:
                # What takes the place of a person's choice stays as that one would: no push overrides it.
                by = choice.settled.by if choice.settled.is_a_persons else RELEASE
                at = datetime.now(UTC).isoformat(timespec="seconds")
                after = Choice.only(candidate, at=at, by=by, reason=reason)
                overridden = choice.settled.in_words
            else:
                after = releasing.settled_after(choice, place.served.versions(model), reason)
            releasing.end(place, model, winner=candidate if promoted else stable, after=after)
            served = candidate if promoted else stable
            said = (
                f"Version {candidate} of {model} is served in place of {stable}, as {STABLE}. {reason}"
                if promoted
                else f"Version {stable} of {model} is served as before, without {candidate}. {reason}"
            )
            highest = max(place.served.versions(model))
            if not after.versions and highest != stable:
                said += f" The highest is served again, which is {highest} meanwhile."
                served = highest
        else:
            served = changing.current(place.served, choice.settled, place.server, model)
            said = f"The release of version {candidate} of {model} had been ended before; version {served} is served."
            # What put another version there has a record of its own.
            has_record = served != candidate
    log.info("%s", said)
    promotion.model, promotion.from_version, promotion.to_version = model, stable, served
    promotion.changed, promotion.reason = int(served != stable), reason
    promotion.took_over = int(served != stable and not has_record)
    promotion.approval, promotion.summary = f"{RELEASE} {release.release}".rstrip(), said
    promotion.as_of, promotion.overridden = release.as_of, overridden
    promotion.interval_start, promotion.interval_end = release.interval_start, release.interval_end
    if served not in (stable, candidate):
        # It was pushed while the release was under way; of its interval its number tells the end.
        end = version_number.end_of(served)
        promotion.interval_start, promotion.interval_end = "", end.isoformat() if end else ""
    _write(Path(promotion.uri) / PROMOTION, {name: getattr(promotion, name) for name in Promotion.RECORD})


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise TerminalError(
            "The candidate's share is none.",
            expected="over 0 and up to 1",
            received=share,
            remedy="Correct the share, such as 0.1.",
        )


def _unwanted(choice: Choice, told: releases.Release) -> str:
    """Why a release that a push asked for is not begun, in one sentence; empty where it is."""
    if choice.is_a_persons:
        by = f" by {choice.by}" if choice.by else ""
        why = f"version {choice.pinned} was chosen{by} at {choice.at}, and a push does not override a person"
    elif told.candidate <= told.stable:
        why = "it is served already" if told.candidate == told.stable else f"{told.stable} is served, which is newer"
    else:
        return ""
    return f"No release of version {told.candidate} of {told.model} was begun: {why}."


def _candidate(asked: str, known: Mapping[int, Registered], stable: int, model: str) -> Registered:
    there = ", ".join(map(str, sorted(known, reverse=True))) or "none"
    number = max(known, default=0) if asked == LATEST else int(asked) if asked.isdecimal() else 0
    if number not in known or not stable:
        raise TerminalError(
            f"There is no such version of {model} to release."
            if stable
            else f"No version of {model} is served to compare with.",
            expected=f"{LATEST} or a number of {there}, while another version is served",
            received=f"{asked!r}, while {stable or 'no version'} is served",
            remedy="Choose another version, or push one first.",
        )
    return known[number]


def _check_can_be_tried(candidate: Registered, stable: int, model: str) -> None:
    if candidate.number == stable:
        raise TerminalError(
            f"Version {stable} of {model} is served already.",
            expected="a version that is not served yet",
            received=f"version {stable}",
            remedy="Push a newer one with `release=canary`, or name another.",
        )
    if fault := candidate.fault():
        raise changing.broken(candidate.number, model, fault)


def _counts(release: Any, url: str) -> Counts:
    counts = Counts.of(router.status(url), release.model)
    if counts is None or counts.id != release.release:
        raise TerminalError(
            f"The release of version {release.candidate} of {release.model} is no longer under way.",
            expected=f"the router to follow the release {release.release}",
            received="none" if counts is None else f"the release {counts.id}",
            remedy="A promotion or rollback has ended it. Start another release if it is still wanted.",
        )
    return counts


def _watched(release: Any, url: str) -> Counts:
    """Watches until enough was seen: where no task of Airflow's has. A router that restarts ends no release."""
    counts: Counts | None
    while True:
        try:
            counts = _counts(release, url)
        except TransientError as error:
            log.info("The router was not asked: %s", error)
            counts = None
        why = router.over(
            counts,
            since=release.since,
            minutes=release.minutes,
            longest_minutes=release.longest_minutes,
            requests=release.min_requests,
            limit=release.max_more_failed,
        )
        if why:
            log.info("The watching has ended: %s.", why)
            return counts or _counts(release, url)
        time.sleep(POLL_S)


def _decide(verdict: Verdict, counts: Counts, release: Any, when_unsure: str) -> tuple[bool, str]:
    """Whether the candidate takes over, and why, in one sentence."""
    enough, *rules = verdict.checks
    if why := counts.clearly_worse(release.max_more_failed):
        # Some rules need no more requests.
        return False, f"Rolled back: {why}."
    failed = [check for check in rules if not check.passed and check.severity == "blocking"]
    told = "; ".join(f"{check.name} is {check.value:.4g}, allowed is {check.threshold}" for check in failed)
    if not enough.passed:
        promoted = when_unsure == PROMOTE and not failed and counts.candidate.requests > 0
        said = f"too few requests to decide ({enough.note.rstrip('.')}, {release.min_requests} each are asked for)"
        said += f", and of these {told}" if failed else ""
        return promoted, f"{'Promoted, as was wanted in such a case' if promoted else 'Rolled back'}: {said}."
    if failed:
        return False, f"Rolled back: {told}."
    return True, f"Promoted: all {len(rules) + 1} rules hold over {enough.note}"


def _write(path: Path, told: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(told, indent=1))
