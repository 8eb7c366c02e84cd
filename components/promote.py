"""propose and promote: a person puts another version of a model before the requests, and may take it back."""

import json
import logging
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.audit.log import PROMOTED, ROLLED_BACK, AuditLog
from airtight.errors import TerminalError
from airtight.files import write_text
from components.artifacts import Promotion, Proposal
from components.modelling.registered import Registered, latest_end, registered, served_before
from components.modelling.served import HIGHEST, Choice, Served
from components.rollout import steps, switch
from components.rollout.anchoring import anchor_in, digest_of
from components.rollout.steps import Place

log = logging.getLogger(__name__)

LATEST, PREVIOUS = "latest", "previous"
"""What may be asked for beside a number: whatever is the highest from now on, or the next lower one than is served."""
NEVER_SERVED = "it never served, or was taken back"
RECORD, SUMMARY = "proposal.json", "proposal.md"
PROMOTION = "promotion.json"


@component
def propose(
    proposal: OutputArtifact[Proposal],
    model_name: Parameter[str],
    version: Parameter[str],
    pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
    evaluations: InputArtifact[List[standard_artifacts.ModelEvaluation]] = None,  # noqa: UP006
    promotions: InputArtifact[List[Promotion]] = None,  # noqa: UP006
    reason: Parameter[str] = "",
    serving_root: Parameter[str] = "",
    server_url: Parameter[str] = "",
) -> None:
    """Says which version would be served in place of which, and how both were judged. It changes nothing.

    Args:
      proposal: Gets the versions, `proposal.json` and, for a person, `proposal.md`.
      model_name: The model.
      version: A number, `previous` (the highest sound version below the served one that served, too; while a release
        tries a version, the one beside which it is tried) or `latest`.
      pushed: What was pushed in all runs.
      evaluations: How it was judged in all runs.
      promotions: What persons and releases had served since, in all runs.
      reason: Why another version should be served; it must be given.
      serving_root: Folder of all served models; empty is the state folder's `models/`.
      server_url: The server's REST address; empty is what $AIRTIGHT_MODEL_SERVER names, and there is none to ask
        when that is empty too.

    Raises:
      TerminalError: There is no such version, it is broken, or there is no reason.
      TransientError: The server cannot be reached.
    """
    if not reason.strip():
        raise TerminalError(
            f"No version of {model_name} is promoted without a reason.",
            expected="why another version should be served",
            received="no reason",
            remedy='Say why, in the form\'s reason or with `make rollback REASON="..."`; the audit log keeps it.',
        )
    place = Place.named(serving_root, server_url, "", 0.0)
    served, server = place.served, place.server
    under_way = served.choice(model_name)
    choice, current = _as_it_is(place, model_name)
    tried_beside = steps.stable_of(under_way)
    known = registered(served.root / model_name, pushed or [], evaluations or [])
    requested = version.strip()
    if requested == PREVIOUS and tried_beside and tried_beside != under_way.trial:
        requested = str(tried_beside)
    may_return = served_before(model_name, current, known.values(), pushed or [], promotions or [])
    wanted, passed_over = _wanted(requested, known, current, model_name, may_return)
    if server is not None and (state := server.versions(model_name).get(wanted.number)) and state.error:
        raise switch.broken(wanted.number, model_name, f"the model server cannot load it: {state.error}")
    proposal.interval_start, proposal.interval_end = wanted.interval
    proposal.model, proposal.version, proposal.pin = model_name, wanted.number, int(version.strip() != LATEST)
    proposal.served, proposal.pinned, proposal.reason = current, choice.pinned, reason
    proposal.as_of = latest_end(known.values())
    proposal.summary = _summary(proposal, known.get(current), wanted, choice, passed_over, under_way)
    names = ("model", "version", "pin", "served", "pinned", "reason", "as_of", "interval_start", "interval_end")
    _write(Path(proposal.uri) / RECORD, {name: getattr(proposal, name) for name in names})
    write_text(Path(proposal.uri) / SUMMARY, proposal.summary)
    log.info("%s", proposal.summary)


@component
def promote(
    proposal: InputArtifact[Proposal],
    promotion: OutputArtifact[Promotion],
    approval: Parameter[str] = "",
    serving_root: Parameter[str] = "",
    server_url: Parameter[str] = "",
    router_url: Parameter[str] = "",
    timeout_s: Parameter[float] = 120.0,
) -> None:
    """Has the proposed version served, or leaves everything as it was.

    The file that says what is served names the new version beside the old one first, so that no request is without an
    answer, and alone when the server has it and answered a row. A promoted number stays until another is promoted. A
    release that is under way, or was broken off, is ended first.

    Args:
      proposal: What was proposed, and approved.
      promotion: Gets what was done, and `promotion.json`.
      approval: Who approved it, when, and what they noted.
      serving_root: As in propose.
      server_url: As in propose; without a server, what is served is only written down.
      router_url: REST address of the router, which is waited for where a release is ended; empty is what
        $AIRTIGHT_ROUTER names.
      timeout_s: The server has so long for each of the two steps, and for each by which a release ends.

    Raises:
      TerminalError: What is served is no longer what the proposal was made for, the version cannot be loaded, or the
        audit log is broken; an earlier version is served all the same.
      TransientError: The server cannot be reached or is not done in time.
    """
    place, model = Place.named(serving_root, server_url, router_url, timeout_s), proposal.model
    served, server = place.served, place.server
    audit, wanted = AuditLog(model), HIGHEST
    if proposal.pin:
        origin = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "by": approval, "reason": proposal.reason}
        wanted = Choice.only(proposal.version, **origin)
    with served.alone(model):
        choice, current = _as_it_is(place, model)
        overridden = served.choice(model).settled.in_words
        ends = served.choice(model).release
        there_already = current == proposal.version and _is_chosen(choice, proposal) and not ends
        if there_already:
            steps.clear(place, model, "")
            summary = f"Version {proposal.version} of {model} is served already; nothing was changed."
            overridden = ""
        else:
            _check_still_true(proposal, choice, current, served)
            if proposal.version > current:  # The way back waits for nothing: it is written down afterwards, or fails.
                audit.check()
            why = f"version {proposal.version} was promoted{f': {proposal.reason}' if proposal.reason else ''}"
            choice, ended = steps.clear(place, model, why, stays=True)
            switch.change(served, server, model, choice, wanted, (current, proposal.version), timeout_s)
            answers = "" if server else " No server was asked: the next one that reads the file serves it."
            release = f" The release of version {ended} was ended." if ended else ""
            overridden = "; ".join(filter(None, (overridden, f"the release of version {ended}" if ended else "")))
            summary = f"{_in_words(model, current, proposal.version, proposal.pin)}{release}{answers}"
        anchor = audit.append(
            ROLLED_BACK if proposal.version < proposal.served else PROMOTED,
            version=proposal.version,
            digest=digest_of(served, model, proposal.version),
            interval=(proposal.interval_start, proposal.interval_end),
            reason=proposal.reason,
            changed=not there_already,
            approval=approval,
            in_place_of=proposal.served,
            overridden=overridden,
        )
    log.info("%s", summary)
    anchor_in(promotion, anchor)
    promotion.model, promotion.from_version, promotion.to_version = model, current, proposal.version
    promotion.changed, promotion.reason, promotion.approval = int(not there_already), proposal.reason, approval
    promotion.interval_start, promotion.interval_end = proposal.interval_start, proposal.interval_end
    # Also where it is served already: an earlier attempt may have been killed before it could say so.
    promotion.took_over = 1
    promotion.as_of, promotion.overridden, promotion.summary = proposal.as_of, overridden, summary
    _write(Path(promotion.uri) / PROMOTION, {name: getattr(promotion, name) for name in Promotion.RECORD})


def _as_it_is(place: Place, model: str) -> tuple[Choice, int]:
    """What is chosen and which version is served, as if a promotion or release that is under way had ended."""
    choice = place.served.choice(model)
    settled = steps.settled_after(choice, place.served.versions(model), "", stays=True)
    beside = steps.stable_of(choice)
    return settled, beside or switch.current(place.served, settled, place.server, model)


def _is_chosen(choice: Choice, proposal: Any) -> bool:
    """Whether it is chosen already; a version that a push or a release left served is no person's choice yet."""
    return choice.is_a_persons and choice.versions == (proposal.version,) if proposal.pin else not choice.versions


def _wanted(
    requested: str, known: Mapping[int, Registered], current: int, model: str, may_return: Collection[int]
) -> tuple[Registered, list[tuple[int, str]]]:
    """The version that is asked for, and the lower ones that `previous` had to pass over, each with the reason."""
    passed_over: list[tuple[int, str]] = []
    if requested == PREVIOUS:
        for number in sorted((number for number in known if number < current), reverse=True):
            if not (fault := known[number].fault() if number in may_return else NEVER_SERVED):
                return known[number], passed_over
            passed_over.append((number, fault))
    elif (known and requested == LATEST) or (requested.isdecimal() and int(requested) in known):
        wanted = known[max(known) if requested == LATEST else int(requested)]
        if fault := wanted.fault():
            raise switch.broken(wanted.number, model, fault)
        return wanted, []
    why_not = f", where {', '.join(f'{number} cannot be served: {why}' for number, why in passed_over)}"
    raise TerminalError(
        f"There is no such version of {model}.",
        expected=f"{LATEST}, {PREVIOUS} or a number of {', '.join(map(str, sorted(known, reverse=True))) or 'none'}",
        received=f"{requested!r}, while {current or 'no version'} is served" + (why_not if passed_over else ""),
        remedy="Choose another version; `python -m pipelines.<pipeline>.promote --list` shows them."
        if known
        else "Push a model first.",
    )


def _check_still_true(proposal: Any, choice: Choice, current: int, served: Served) -> None:
    """Sees that what the person decided on is still so."""
    then, now = (proposal.served, proposal.pinned), (current, choice.pinned)
    highest = max(served.versions(proposal.model), default=0)
    if then == now and (proposal.pin or highest == proposal.version):
        return
    received = _state(*now) if then != now else f"a later version, {highest}"
    raise TerminalError(
        f"The proposal to serve version {proposal.version} of {proposal.model} is out of date.",
        expected=f"{_state(*then)}, as when it was made" if then != now else f"{proposal.version} to be the latest",
        received=received,
        remedy="Make a new proposal: start the promotion again.",
    )


def _state(current: int, pinned: int) -> str:
    return f"version {current} to be served" + (", promoted by hand" if pinned else ", as the highest")


def _in_words(model: str, before: int, after: int, pin: int) -> str:
    """What was done."""
    stays = "and stays, whatever is pushed, until another is promoted" if pin else "and later ones follow when pushed"
    if before == after:
        return f"Version {after} of {model} is served as before, {stays}."
    return f"Version {after} of {model} is served in place of {before or 'none'}, {stays}."


def _summary(
    proposal: Any,
    served: Registered | None,
    wanted: Registered,
    choice: Choice,
    passed_over: list[tuple[int, str]],
    under_way: Choice,
) -> str:
    """The proposal for a person, Markdown."""
    how = (
        "the highest"
        if not choice.pinned
        else "kept by a release"
        if choice.is_left_to_a_release
        else "promoted by hand"
    )
    rows = [
        ("", "served now", "proposed"),
        ("---", "---", "---"),
        ("version", f"{proposal.served} ({how})" if proposal.served else "none", f"**{wanted.number}**"),
        ("judged on", _days(served), _days(wanted)),
        (_title(wanted, served), _metric(served), _metric(wanted)),
        ("verdict", _verdict(served), _verdict(wanted)),
    ]
    lines = ["| " + " | ".join(_cell(text) for text in row) + " |" for row in rows]
    notes = [f"Version {number} was passed over: {why}." for number, why in passed_over]
    if under_way.release:
        notes.append(
            f"A release tries {under_way.trial} since {under_way.at}; it is ended when this is approved, and "
            f"{proposal.served} answers again alone."
        )
    elif choice.at:
        by = f" ({choice.by})" if choice.by else ""
        notes.append(f"{choice.pinned} was promoted on {choice.at}{by}{f': {choice.reason}' if choice.reason else ''}.")
    if wanted.verdict is None:
        notes.append(f"How {wanted.number} was judged is not known.")
    if proposal.served == wanted.number and _is_chosen(choice, proposal) and not under_way.release:
        notes.append(f"{wanted.number} is served already: nothing would change.")
    else:
        notes.append(
            f"Approved, {wanted.number} stays served whatever is pushed, until another or `{LATEST}` is promoted."
            if proposal.pin
            else "Approved, the highest version is served from now on, and each later one when it is pushed."
        )
    return (
        "\n".join([*lines, "", f"Reason: {_cell(proposal.reason)}", "", *(f"- {_cell(note)}" for note in notes)]) + "\n"
    )


def _days(version: Registered | None) -> str:
    if version is None or not version.interval[0]:
        return "not known"
    start, end = (instant[:10] for instant in version.interval)
    return f"{start} up to but not {end}"


def _title(*versions: Registered | None) -> str:
    return next((version.metric[0] for version in versions if version and version.metric), "quality")


def _metric(version: Registered | None) -> str:
    return "not known" if version is None or version.metric is None else f"{version.metric[1]:.4f}"


def _verdict(version: Registered | None) -> str:
    return "not known" if version is None or version.verdict is None else str(version.verdict)


def _cell(text: str) -> str:
    """In one line, and no end of a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _write(path: Path, payload: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(payload, indent=1))
