"""start_release, judge_release, finish_release: a version is tried on live requests, judged, and takes over or not."""

import dataclasses
import json
import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.audit.log import RELEASE_ENDED, RELEASE_NOT_STARTED, RELEASE_STARTED, AuditLog
from airtight.files import write_text
from airtight.parameters import check_choice
from airtight.rollout import arm_metrics, rules, state
from airtight.rollout.arm_metrics import Arm, Counts
from airtight.rollout.rules import PROMOTE, ROLL_BACK, Margins
from airtight.verdict import Verdict
from components.artifacts import Promotion, Release, ReleaseDecision
from components.modelling import version_number
from components.modelling.registered import latest_end, registered
from components.modelling.served import RELEASE
from components.reports.release import page
from components.rollout import candidates, ending, judging, steps, switch
from components.rollout.anchoring import anchor_in, digest_of
from components.rollout.steps import Place

log = logging.getLogger(__name__)

WHEN_UNSURE = PROMOTE, ROLL_BACK
ASKED_BY = PERSON, PUSH = "person", "push"
RECORD, COUNTS, REPORT = "release.json", "counts.json", "report.html"
PROMOTION = "promotion.json"
GRACE = timedelta(minutes=15)
"""A release that is still there so long after its longest time was broken off."""
_TO_TELL = (
    *("model", "release", "stable", "candidate", "mode", "share", "since", "minutes", "longest_minutes"),
    *("margins", "summary", "as_of", "interval_start", "interval_end"),
)


@component
def start_release(
    release: OutputArtifact[Release],
    model_name: Parameter[str],
    version: Parameter[str] = candidates.LATEST,
    pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
    evaluations: InputArtifact[List[standard_artifacts.ModelEvaluation]] = None,  # noqa: UP006
    mode: Parameter[str] = state.CANARY,
    share: Parameter[float] = 0.1,
    minutes: Parameter[float] = 10.0,
    longest_minutes: Parameter[float] = 60.0,
    min_requests: Parameter[int] = Margins.requests,
    max_more_failed: Parameter[float] = Margins.failed,
    max_more_refused: Parameter[float] = Margins.refused,
    max_more_slow: Parameter[float] = Margins.slow,
    slow_ratio: Parameter[float] = Margins.slow_ratio,
    slow_floor_ms: Parameter[float] = Margins.slow_floor_ms,
    mean_limit: Parameter[float] = Margins.mean,
    distribution_limit: Parameter[float] = Margins.distribution,
    difference_limit: Parameter[float] = Margins.difference,
    answers: Parameter[str] = Margins.answers,
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
      share: Of the requests, over 0 and below 1; up to 1 in shadow mode.
      minutes: The candidate is watched for at least so many minutes before it is promoted.
      longest_minutes: And at most for so many, where requests are few.
      min_requests: Each version must be asked so many before the candidate is promoted.
      max_more_failed: Margins of the rules, as `airtight.rollout.rules.Margins` has them: `failed`,
      max_more_refused: `refused`,
      max_more_slow: `slow`,
      slow_ratio: `slow_ratio`,
      slow_floor_ms: `slow_floor_ms`,
      mean_limit: `mean`,
      distribution_limit: `distribution`,
      difference_limit: `difference`,
      answers: and `answers`.
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
    candidates.check_share(mode, share)
    margins = Margins(
        requests=min_requests,
        failed=max_more_failed,
        refused=max_more_refused,
        slow=max_more_slow,
        slow_ratio=slow_ratio,
        slow_floor_ms=slow_floor_ms,
        mean=mean_limit,
        distribution=distribution_limit,
        difference=difference_limit,
        answers=answers,
    )
    check_choice("asked_by", asked_by, ASKED_BY)
    audit = AuditLog(model_name)
    with place.served.alone(model_name):
        steps.check_nothing_under_way(place, model_name, owner)
        choice, _ = steps.clear(place, model_name, "it was broken off, and another one begins")
        stable = switch.current(place.served, choice, place.server, model_name)
        known = registered(place.served.root / model_name, pushed or [], evaluations or [])
        candidate = candidates.choose(version.strip(), known, stable, model_name)
        of_stable = known[stable].answers if stable in known else None
        low, high = of_stable or candidate.answers or (0.0, 1.0)
        begun = datetime.now(UTC)
        until = begun + timedelta(minutes=max(minutes, longest_minutes)) + GRACE
        trial = state.Release(
            model_name,
            uuid.uuid4().hex,
            stable,
            candidate.number,
            mode,
            share,
            begun.isoformat(timespec="seconds"),
            until.isoformat(timespec="seconds"),
            dataclasses.asdict(margins),
            low,
            high,
        )
        release.model, release.release, release.stable, release.candidate = model_name, "", stable, trial.candidate
        release.mode, release.share, release.since = mode, share, trial.since
        release.minutes, release.longest_minutes = minutes, max(minutes, longest_minutes)
        release.margins = margins.to_json()
        release.interval_start, release.interval_end = candidate.interval
        release.as_of = latest_end(known.values())
        release.summary = candidates.unwanted(choice, trial) if asked_by == PUSH else ""
        if not release.summary:
            candidates.check_can_be_tried(candidate, stable, model_name)
            audit.check()
            what = "is asked beside" if mode == state.SHADOW else "answers beside"
            release.summary = (
                f"Version {trial.candidate} of {model_name} {what} {stable} ({mode}, {share:.1%} of the requests) for "
                f"{minutes:g} minutes at least and {release.longest_minutes:g} at most, until its rules decide. "
                + judging.needed(place.router, trial, margins)
            )
            steps.begin(place, trial, before=choice, owner=owner)
            # Begun is when it has its share: loading the candidate takes none of its time.
            release.release, release.since = trial.id, datetime.now(UTC).isoformat(timespec="seconds")
        try:
            anchor = audit.append(
                RELEASE_STARTED if release.release else RELEASE_NOT_STARTED,
                version=candidate.number,
                digest=candidate.digest or digest_of(place.served, model_name, candidate.number),
                interval=candidate.interval,
                reason=release.summary,
                release=release.release,
                beside=stable,
                mode=mode,
                share=share,
                asked_by=asked_by,
            )
            anchor_in(release, anchor)
            _write(Path(release.uri) / RECORD, {name: getattr(release, name) for name in _TO_TELL})
        except BaseException:
            # Nobody would end what no Release tells of.
            steps.clear(place, model_name, "that it began could not be written down")
            raise
    log.info("%s", release.summary)


@component
def judge_release(
    release: InputArtifact[Release],
    decision: OutputArtifact[ReleaseDecision],
    when_unsure: Parameter[str] = ROLL_BACK,
    watched: Parameter[str] = "",
    router_url: Parameter[str] = "",
) -> None:
    """Decides from what the router counted whether the candidate takes over; it changes nothing.

    The margins are those with which the release began: nobody changes them in sight of the figures. A candidate that is
    not good enough is a decision, and no fault. So is a release that was not begun.

    Args:
      release: What `start_release` began.
      decision: Gets `promoted` (1 or 0) and the reason, `verdict.json` with one check for each rule, `report.html` and
        `counts.json`.
      when_unsure: What becomes of a release that is not decided: promote (where no figure itself is over its margin;
        that holds no error rate) or roll_back.
      watched: Why the watching has ended, as the task that watched reports; empty lets this step watch by itself.
      router_url: As in start_release.

    Raises:
      TerminalError: The router does not follow the release, as somebody else has ended it; `when_unsure` is neither.
      TransientError: The router cannot be reached.
    """
    check_choice("when_unsure", when_unsure, WHEN_UNSURE)
    url, what = arm_metrics.address(router_url), f"{release.candidate} beside {release.stable}"
    if release.release:
        margins = Margins.of(release.margins)
        counts = judging.watch(release, margins, url, watched)
        standing = rules.decide(counts, margins)
        comparisons = standing.comparisons
        promoted, reason = judging.decide(standing, counts, when_unsure)
    else:
        counts = Counts("", release.mode, release.share, Arm(release.stable), Arm(release.candidate))
        comparisons, promoted, reason, watched = (), False, release.summary, ""
    verdict = Verdict("release", what, tuple(map(judging.check, comparisons)), reason)
    for check in verdict.checks:
        log.log(logging.INFO if check.passed else logging.WARNING, "%s", check)
    log.info("%s", reason)
    folder = Path(decision.uri)
    verdict.write(folder)
    _write(folder / COUNTS, dataclasses.asdict(counts))
    title = f"Release of {release.candidate} of {release.model} beside {release.stable}"
    outcome = f"{reason} Watched: {watched}." if watched else reason
    write_text(folder / REPORT, page(title, comparisons, outcome, counts))
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
    audit = AuditLog(model)
    with place.served.alone(model):
        end = ending.end(place, release, promoted=promoted, reason=reason, check=audit.check)
        if release.release:
            ended = audit.append(
                RELEASE_ENDED,
                version=candidate,
                digest=digest_of(place.served, model, candidate),
                interval=(release.interval_start, release.interval_end),
                reason=end.summary,
                release=release.release,
                beside=stable,
                serves=end.served,
                outcome=end.outcome,
                overridden=end.overridden,
            )
            anchor_in(promotion, ended)
    log.info("%s", end.summary)
    promotion.model, promotion.from_version, promotion.to_version = model, stable, end.served
    promotion.changed, promotion.reason = int(end.served != stable), reason
    promotion.took_over = int(end.served != stable and not end.has_record)
    promotion.approval, promotion.summary = f"{RELEASE} {release.release}".rstrip(), end.summary
    promotion.as_of, promotion.overridden = release.as_of, end.overridden
    promotion.interval_start, promotion.interval_end = release.interval_start, release.interval_end
    if end.served not in (stable, candidate):
        # It was pushed while the release was under way; of its interval its number tells the end.
        at = version_number.end_of(end.served)
        promotion.interval_start, promotion.interval_end = "", at.isoformat() if at else ""
    _write(Path(promotion.uri) / PROMOTION, {name: getattr(promotion, name) for name in Promotion.RECORD})


def _write(path: Path, payload: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(payload, indent=1))
