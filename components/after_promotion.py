"""judge_promotion and take_back: a version that loses more than the former champion goes back by itself."""

import json
import logging
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact, standard_artifacts

from airtight.audit.log import ROLLED_BACK, AuditLog
from airtight.files import write_text
from airtight.interval import time_zone
from airtight.parameters import check_choice
from airtight.served_history import Takeover
from airtight.watch import after_promotion as judging
from airtight.watch.after_promotion import TAKE_BACK, WATCHING, PairedDay, Settings, Standing
from components.artifacts import LabelQuality, Promotion, PromotionOutcome
from components.modelling.registered import latest_end, registered, takeovers
from components.modelling.served import RELEASE, Choice
from components.reports import after_promotion as report
from components.rollout import steps, switch
from components.rollout.anchoring import anchor_in, digest_of
from components.rollout.steps import Place
from components.rollout.switch import served_in
from components.watch import quality_days
from components.watch.day_rows import LEAST_ROWS
from components.watch.quality_days import RIPE, DayQuality

log = logging.getLogger(__name__)

ACT, ONLY_REPORT = "act", "report"
RECORD, REPORT, PROMOTION = "outcome.json", "report.html", "promotion.json"
_FIELDS = (
    *("model", "version", "former", "outcome", "by_itself", "took_over_at", "days", "rows", "reason"),
    *("interval_start", "interval_end"),
)


@component
def judge_promotion(
    quality: InputArtifact[LabelQuality],
    outcome: OutputArtifact[PromotionOutcome],
    model_name: Parameter[str],
    zone: Parameter[str],
    pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
    promotions: InputArtifact[List[Promotion]] = None,  # noqa: UP006
    ripe_days: Parameter[int] = Settings.days,
    error: Parameter[float] = Settings.error,
    margin: Parameter[float] = Settings.margin,
    longest_days: Parameter[int] = Settings.longest_days,
    serving_root: Parameter[str] = "",
) -> None:
    """Compares the champion with the one before it, on the ripe days since it took over; it changes nothing.

    What lost and what won are the champions as of the interval's end, in data time, so that a backfill says of each
    day what a daily run would have said. Days count whose rows both versions answered, in batch or in shadow
    (`label_quality`). A version that a person promoted is judged alike, and left for a person to take back. Whether the
    former champion's files are still there and whole is a matter of today: it changes no outcome, only whether the
    version goes back by itself.

    Args:
      quality: The days, with pairs of versions.
      outcome: Gets what was decided, `outcome.json` and `report.html`.
      model_name: The model.
      zone: IANA name of the days' time zone.
      pushed: What was pushed in all runs.
      promotions: What persons, releases and this step had served since, in all runs.
      ripe_days: See `Settings.days`.
      error: See `Settings`.
      margin: See `Settings`.
      longest_days: See `Settings`.
      serving_root: Folder of all served models; empty is the state folder's `models/`.

    Raises:
      TerminalError: A setting that cannot be used, or days that cannot be read.
    """
    settings = Settings(ripe_days, error, margin, longest_days)
    end = datetime.fromisoformat(quality.interval_end)
    outcome.model, outcome.interval_start, outcome.interval_end = (
        model_name,
        quality.interval_start,
        quality.interval_end,
    )
    outcome.version = outcome.former = outcome.by_itself = 0
    outcome.took_over_at = ""
    served = takeovers(model_name, pushed or [], promotions or [], end, 2)
    days: list[DayQuality] = []
    metric, fault = "loss", ""
    if served:
        outcome.version, outcome.took_over_at = served[0].version, served[0].at.isoformat()
    if len(served) < 2:  # noqa: PLR2004 - the champion, and the one before it
        reason = f"Nothing to compare: no champion served before {outcome.version or 'this day'}."
        standing = Standing(judging.KEPT, reason, 0, 0, math.nan, -math.inf)
    elif _was_brought_back(served[0], promotions or []):
        reason = f"Nothing to compare: version {served[0].version} was brought back in the place of a later one."
        standing = Standing(judging.KEPT, reason, 0, 0, math.nan, -math.inf)
    else:
        outcome.former = served[1].version
        since = served[0].at.astimezone(time_zone(zone))
        days = [day for day in quality_days.read(Path(quality.uri)).values() if day.day >= since.date().isoformat()]
        pairs, metric = _pairs(days, outcome.version, outcome.former)
        last = end.astimezone(time_zone(zone)).date()
        standing = judging.judge(pairs, (last - since.date()).days, settings, metric)
        if standing.outcome == WATCHING and not pairs:
            standing = judging.Standing(
                WATCHING, _why_no_pairs(days, outcome.version, outcome.former), 0, 0, math.nan, -math.inf
            )
        if standing.outcome in (WATCHING, TAKE_BACK):
            fault = _fault(serving_root, model_name, served[1], pushed)
    by_person = _promoted_by_person(served[0], promotions or []) if served else ""
    held = [fault] if fault else []
    if standing.outcome == TAKE_BACK and by_person:
        held.append(f"It is not taken back by itself: it was promoted by hand ({by_person}); roll it back by hand.")
    outcome.by_itself = int(standing.outcome == TAKE_BACK and not held)
    reason = f"It would be taken back: {standing.words}" if standing.outcome == TAKE_BACK and held else standing.reason
    outcome.outcome, outcome.reason = standing.outcome, " ".join((reason, *held))
    outcome.days, outcome.rows = standing.days, standing.rows
    outcome.difference, outcome.lower = (
        value if math.isfinite(value) else 0.0 for value in (standing.difference, standing.lower)
    )
    record = {name: getattr(outcome, name) for name in _FIELDS}
    record |= {name: _finite(getattr(standing, name)) for name in ("difference", "lower")}
    record |= {"metric": metric, "decided_on": standing.decided_on}
    write_text(Path(outcome.uri) / RECORD, json.dumps(record, indent=1, allow_nan=False))
    shown = _pairs(days, outcome.version, outcome.former)[0] if days else []
    write_text(Path(outcome.uri) / REPORT, report.page(record, shown, settings))
    log.log(logging.WARNING if standing.outcome == TAKE_BACK or held else logging.INFO, "%s", outcome.reason)


@component
def take_back(
    outcome: InputArtifact[PromotionOutcome],
    promotion: OutputArtifact[Promotion],
    pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
    serving_root: Parameter[str] = "",
    server_url: Parameter[str] = "",
    router_url: Parameter[str] = "",
    timeout_s: Parameter[float] = 120.0,
    acts: Parameter[str] = ACT,
) -> None:
    """Has the former champion served again where it was decided, or leaves everything as it is.

    Where another version is served meanwhile, or a person chose the version, nothing is changed. What is brought back
    stays until a later version is pushed or released. A release under way, which compares with the version that goes,
    is ended.

    Args:
      outcome: What was decided.
      promotion: Gets what was done, and `promotion.json`.
      pushed: What was pushed in all runs.
      serving_root: Folder of all served models; empty is the state folder's `models/`.
      server_url: REST addresses of the model servers, separated by commas; empty is what $AIRTIGHT_MODEL_SERVER names.
      router_url: REST address of the router; empty is what $AIRTIGHT_ROUTER names.
      timeout_s: Server and router have so long for each step.
      acts: act, or report: the latter changes nothing, as in a backfill.

    Raises:
      TerminalError: The former champion is gone or cannot be loaded; the other one serves as before.
      TransientError: A server cannot be reached or is not done in time.
    """
    check_choice("acts", acts, (ACT, ONLY_REPORT))
    place, model = Place.named(serving_root, server_url, router_url, timeout_s), outcome.model
    version, former, served = outcome.version, outcome.former, place.served
    known = registered(served.root / model, pushed or [], [])
    anchor, changed, overridden, serves = None, False, "", version
    with served.alone(model):
        choice = served.choice(model)
        current = steps.stable_of(choice) or switch.current(served, choice.settled, place.server, model)
        there_already = choice.settled.versions == (former,) and current == former and not choice.release
        if not outcome.by_itself:
            took_over, summary, serves = False, f"Nothing was changed. {outcome.reason}", current or version
        elif current not in (version, former):
            took_over, serves = False, current
            summary = f"Nothing was changed: version {current} is served in place of {version} meanwhile."
        elif current == version and choice.settled.is_a_persons:
            took_over = False
            summary = f"Nothing was changed: a person chose what is served ({choice.settled.in_words})."
        elif acts == ONLY_REPORT:
            took_over, serves = False, current
            summary = f"Nothing was changed, as in a backfill; version {former} would be served. {outcome.reason}"
        else:
            if former not in known or (fault := known[former].fault()):
                raise switch.broken(former, model, fault if former in known else "it is gone")
            took_over, serves, changed = True, former, not there_already
            if changed:
                overridden, ended = _bring_back(place, model, version, former, outcome.reason)
                overridden = "; ".join(filter(None, (overridden, f"the release of version {ended}" if ended else "")))
            summary = f"Version {former} of {model} is served again in place of {version}. {outcome.reason}"
            anchor = AuditLog(model).append(
                ROLLED_BACK,
                version=former,
                digest=digest_of(served, model, former),
                interval=known[former].interval,
                reason=outcome.reason,
                changed=changed,
                in_place_of=version,
                overridden=overridden,
                asked_by="quality after the promotion",
            )
    log.log(logging.WARNING if took_over else logging.INFO, "%s", summary)
    anchor_in(promotion, anchor)
    promotion.model, promotion.from_version, promotion.to_version = model, version, serves
    promotion.changed, promotion.took_over = int(changed), int(took_over)
    promotion.reason, promotion.approval, promotion.overridden = outcome.reason, RELEASE, overridden
    promotion.summary, promotion.as_of = summary, _as_of(outcome.interval_end, latest_end(known.values()))
    promotion.interval_start, promotion.interval_end = known[serves].interval if serves in known else ("", "")
    record = {name: getattr(promotion, name) for name in Promotion.RECORD}
    write_text(Path(promotion.uri) / PROMOTION, json.dumps(record, indent=1))


def _bring_back(place: Place, model: str, version: int, former: int, reason: str) -> tuple[str, int]:
    """Goes from the version to the former one; whose choice ended, and the candidate of a release that was ended."""
    served = place.served
    overridden = served.choice(model).settled.in_words
    choice, ended = steps.clear(place, model, f"version {version}, beside which it is tried, is taken back", stays=True)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    wanted = Choice.only(former, at=at, by=RELEASE, reason=reason)
    switch.change(served, place.server, model, choice, wanted, (version, former), place.timeout_s)
    return overridden, ended


def _pairs(days: Sequence[DayQuality], version: int, former: int) -> tuple[list[PairedDay], str]:
    """The ripe days on which both answered, and whose losses they compare."""
    pairs, metric = [], "loss"
    for day in days:
        for pair in day.pairs if day.state == RIPE else ():
            sign = {(version, former): 1, (former, version): -1}.get((pair["version"], pair["beside"]))
            if sign:
                metric = pair["metric"]
                # Days that were judged before there were these counts have pairs without a wrong row.
                wrong = [pair.get("wrong", 0), pair.get("beside_wrong", 0)][::sign]
                rows = pair["rows"] if pair["rows"] >= LEAST_ROWS else 0
                pairs.append(PairedDay(day.day, rows, sign * pair["difference"], pair["variance"], *wrong))
    return pairs, metric


def _why_no_pairs(days: Sequence[DayQuality], version: int, former: int) -> str:
    ripe = [day for day in days if day.state == RIPE]
    if not ripe:
        return f"Not enough data: none of {len(days)} days since is ripe yet."
    return (
        f"Not enough data: on none of {len(ripe)} ripe days since did version {version} and version {former}, the "
        f"former champion, answer {LEAST_ROWS} rows or more whose label is known."
    )


def _fault(serving_root: str, model: str, former: Takeover, pushed: Sequence[artifact.Artifact] | None) -> str:
    """Why the former champion cannot be served again, in a sentence; empty where it can."""
    known = registered(served_in(serving_root).root / model, pushed or [], []).get(former.version)
    fault = known.fault() if known else "it is gone"
    return fault and (
        f"Version {former.version}, the former champion, cannot be served again ({fault}): the later one goes on "
        "serving until the files are back, or another version is promoted by hand."
    )


def _was_brought_back(champion: Takeover, promotions: Sequence[artifact.Artifact]) -> bool:
    """Whether it took over from a version of a later interval: then the comparison is over."""
    made = next((promotion for promotion in promotions if promotion.id == champion.order), None)
    return made is not None and made.to_version == champion.version and made.from_version > made.to_version


def _promoted_by_person(champion: Takeover, promotions: Sequence[artifact.Artifact]) -> str:
    """Who promoted it by hand; empty where a push or a release did."""
    made = next((promotion for promotion in promotions if promotion.id == champion.order), None)
    if made is None or made.to_version != champion.version or made.approval.split(" ")[0] == RELEASE:
        return ""
    return made.approval or "nobody said by whom"


def _as_of(watched: str, latest: str) -> str:
    """Since when, in data time, the former champion serves again: not before the day that decided."""
    ends = [datetime.fromisoformat(text) for text in (watched, latest) if text]
    return max(ends).isoformat()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
