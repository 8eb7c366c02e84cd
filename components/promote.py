"""propose and promote: a person puts another version of a model before the requests, and may take it back."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.errors import TerminalError, TransientError
from airtight.files import write_text
from airtight.home import Home
from components.artifacts import Promotion, Proposal
from components.modelling.model_server import ModelServer
from components.modelling.registered import Registered, registered
from components.modelling.served import HIGHEST, STABLE, Choice, Served

log = logging.getLogger(__name__)

LATEST, PREVIOUS = "latest", "previous"
"""What may be asked for beside a number: whatever is the highest from now on, or the next lower one than is served."""
RECORD, SUMMARY = "proposal.json", "proposal.md"
PROMOTION = "promotion.json"
POLL_S = 0.1


@component
def propose(
    proposal: OutputArtifact[Proposal],
    model_name: Parameter[str],
    version: Parameter[str],
    pushed: InputArtifact[List[standard_artifacts.PushedModel]] = None,  # noqa: UP006
    evaluations: InputArtifact[List[standard_artifacts.ModelEvaluation]] = None,  # noqa: UP006
    reason: Parameter[str] = "",
    serving_root: Parameter[str] = "",
    server_url: Parameter[str] = "",
) -> None:
    """Says which version would be served in place of which, and how both were judged. It changes nothing.

    Args:
      proposal: Gets the versions, `proposal.json` and, for a person, `proposal.md`.
      model_name: The model.
      version: A number, `previous` (the highest sound version below the served one) or `latest`.
      pushed: What was pushed in all runs.
      evaluations: How it was judged in all runs.
      reason: Why another version should be served.
      serving_root: Folder of all served models; empty is the state folder's `models/`.
      server_url: The server's REST address; empty is what $AIRTIGHT_MODEL_SERVER names, and there is none to ask
        when that is empty too.

    Raises:
      TerminalError: There is no such version, or it is broken.
      TransientError: The server cannot be reached.
    """
    served = _served(serving_root)
    server = ModelServer.named(server_url)
    choice = served.choice(model_name).settled
    current = _current(served, choice, server, model_name)
    known = registered(served.root / model_name, pushed or [], evaluations or [])
    wanted, passed_over = _wanted(version.strip(), known, current, model_name)
    if server is not None and (told := server.versions(model_name).get(wanted.number)) and told.error:
        raise _broken(wanted.number, model_name, f"the model server cannot load it: {told.error}")
    proposal.interval_start, proposal.interval_end = wanted.interval
    proposal.model, proposal.version, proposal.pin = model_name, wanted.number, int(version.strip() != LATEST)
    proposal.served, proposal.pinned, proposal.reason = current, choice.pinned, reason
    proposal.summary = _summary(proposal, known.get(current), wanted, choice, passed_over)
    names = ("model", "version", "pin", "served", "pinned", "reason", "interval_start", "interval_end")
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
    timeout_s: Parameter[float] = 120.0,
) -> None:
    """Has the proposed version served, or leaves everything as it was.

    The file that says what is served names the new version beside the old one first, so that no request is without an
    answer, and alone when the server has it and answered a row. A promoted number stays until another is promoted.

    Args:
      proposal: What was proposed, and approved.
      promotion: Gets what was done, and `promotion.json`.
      approval: Who approved it, when, and what they noted.
      serving_root: As in propose.
      server_url: As in propose; without a server, what is served is only written down.
      timeout_s: The server has so long for each of the two steps.

    Raises:
      TerminalError: What is served is no longer what the proposal was made for, or the version cannot be loaded.
      TransientError: The server cannot be reached or is not done in time.
    """
    served, server, model = _served(serving_root), ModelServer.named(server_url), proposal.model
    wanted = HIGHEST
    if proposal.pin:
        told = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "by": approval, "reason": proposal.reason}
        wanted = Choice.only(proposal.version, **told)
    with served.alone(model):
        choice = _settled(served, model)
        current = _current(served, choice, server, model)
        there_already = current == proposal.version and choice.versions == wanted.versions
        if there_already:
            said = f"Version {proposal.version} of {model} is served already; nothing was changed."
        else:
            _check_still_true(proposal, choice, current, served)
            _change(served, server, model, choice, wanted, (current, proposal.version), timeout_s)
            answers = "" if server else " No server was asked: the next one that reads the file serves it."
            said = f"{_in_words(model, current, proposal.version, proposal.pin)}{answers}"
    log.info("%s", said)
    promotion.model, promotion.from_version, promotion.to_version = model, current, proposal.version
    promotion.changed, promotion.reason, promotion.approval = int(not there_already), proposal.reason, approval
    promotion.interval_start, promotion.interval_end = proposal.interval_start, proposal.interval_end
    promotion.summary = said
    names = ("model", "from_version", "to_version", "changed", "reason", "approval", "summary")
    _write(
        Path(promotion.uri) / PROMOTION, {n: getattr(promotion, n) for n in (*names, "interval_start", "interval_end")}
    )


def _served(serving_root: str) -> Served:
    return Served(Path(serving_root) if serving_root else Home.current().models_root)


def _settled(served: Served, model: str) -> Choice:
    """What is chosen; what a promotion that was killed left half done is taken back."""
    choice = served.choice(model)
    if choice.trial:
        log.warning("A promotion of %s to %d was broken off before; it is taken back.", model, choice.trial)
        served.choose(model, choice.settled)
    return choice.settled


def _current(served: Served, choice: Choice, server: ModelServer | None, model: str) -> int:
    """The version that answers requests now, 0 for none; without a server, the one that the next server would take."""
    there = set(served.versions(model)) if server is None else server.available(model)
    return choice.pinned if choice.pinned in there else max(there, default=0)


def _wanted(
    asked: str, known: Mapping[int, Registered], current: int, model: str
) -> tuple[Registered, list[tuple[int, str]]]:
    """The version that is asked for, and the lower ones that `previous` had to pass over, each with the reason."""
    passed_over: list[tuple[int, str]] = []
    if asked == PREVIOUS:
        for number in sorted((number for number in known if number < current), reverse=True):
            if not (fault := known[number].fault()):
                return known[number], passed_over
            passed_over.append((number, fault))
    elif (known and asked == LATEST) or (asked.isdecimal() and int(asked) in known):
        wanted = known[max(known) if asked == LATEST else int(asked)]
        if fault := wanted.fault():
            raise _broken(wanted.number, model, fault)
        return wanted, []
    why_not = f", where {', '.join(f'{number} cannot be served: {why}' for number, why in passed_over)}"
    raise TerminalError(
        f"There is no such version of {model}.",
        expected=f"{LATEST}, {PREVIOUS} or a number of {', '.join(map(str, sorted(known, reverse=True))) or 'none'}",
        received=f"{asked!r}, while {current or 'no version'} is served" + (why_not if passed_over else ""),
        remedy="Choose another version; `python -m pipelines.<pipeline>.promote --list` shows them."
        if known
        else "Push a model first.",
    )


def _broken(number: int, model: str, why: str) -> TerminalError:
    return TerminalError(
        f"Version {number} of {model} is broken and cannot be served.",
        expected="a SavedModel as it was pushed, that the server loads",
        received=why,
        remedy="Choose another version, or have the month's pipeline push it again.",
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


def _change(
    served: Served,
    server: ModelServer | None,
    model: str,
    before: Choice,
    wanted: Choice,
    versions: tuple[int, int],
    timeout_s: float,
) -> None:
    """Goes from one version to the other on the server, or back."""
    if server is None:
        served.choose(model, wanted)
        return
    current, new = versions
    try:
        if new != current:
            served.choose(model, before.beside(new, current))
            _await(lambda: _is_loaded(server, model, new), f"version {new} of {model} to be loaded", server, timeout_s)
        if refusal := server.refusal_of_a_row(model, new):
            log.info("Version %d answers; a row of missing values it refuses: %s", new, refusal)
        served.choose(model, wanted)
        label = wanted.labels.get(STABLE, 0)
        _await(
            lambda: server.available(model) == {new} and (not label or server.labelled(model, STABLE) == label),
            f"version {new} of {model} to be the only one" + (f" and to be called {STABLE}" if label else ""),
            server,
            timeout_s,
        )
    except BaseException:
        # Also when the task is stopped: what no Promotion tells of must not be served.
        served.choose(model, before)
        log.warning("The change was taken back: %s is served as before.", current or "nothing")
        raise


def _is_loaded(server: ModelServer, model: str, version: int) -> bool:
    told = server.versions(model).get(version)
    if told is not None and told.state == "END" and told.error:
        raise _broken(version, model, f"the model server cannot load it: {told.error}")
    return told is not None and told.state == "AVAILABLE"


def _await(true: Callable[[], bool], what: str, server: ModelServer, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise TransientError(
                "The model server did not follow in time; the change was taken back.",
                expected=f"{what} within {timeout_s:g} s",
                received="a server that is not there yet",
                remedy=f"See that the server at {server.url} reads models.config again and again, and retry the task.",
            )
        time.sleep(POLL_S)


def _in_words(model: str, before: int, after: int, pin: int) -> str:
    """What was done."""
    stays = "and stays, whatever is pushed, until another is promoted" if pin else "and later ones follow when pushed"
    if before == after:
        return f"Version {after} of {model} is served as before, {stays}."
    return f"Version {after} of {model} is served in place of {before or 'none'}, {stays}."


def _summary(
    proposal: Any, served: Registered | None, wanted: Registered, choice: Choice, passed_over: list[tuple[int, str]]
) -> str:
    """The proposal for a person, Markdown."""
    how = "promoted by hand" if choice.pinned else "the highest"
    rows = [
        ("", "served now", "proposed"),
        ("---", "---", "---"),
        ("version", f"{proposal.served} ({how})" if proposal.served else "none", f"**{wanted.number}**"),
        ("judged on", _days(served), _days(wanted)),
        ("ROC AUC", _auc(served), _auc(wanted)),
        ("verdict", _verdict(served), _verdict(wanted)),
    ]
    lines = ["| " + " | ".join(_cell(text) for text in row) + " |" for row in rows]
    notes = [f"Version {number} was passed over: {why}." for number, why in passed_over]
    if choice.at:
        by = f" ({choice.by})" if choice.by else ""
        notes.append(f"{choice.pinned} was promoted on {choice.at}{by}{f': {choice.reason}' if choice.reason else ''}.")
    if wanted.verdict is None:
        notes.append(f"How {wanted.number} was judged is not known.")
    if proposal.served == wanted.number and choice.versions == ((wanted.number,) if proposal.pin else ()):
        notes.append(f"{wanted.number} is served already: nothing would change.")
    else:
        notes.append(
            f"Approved, {wanted.number} stays served whatever is pushed, until another or `{LATEST}` is promoted."
            if proposal.pin
            else "Approved, the highest version is served from now on, and each later one when it is pushed."
        )
    reason = f"Reason: {_cell(proposal.reason)}" if proposal.reason else "No reason was given."
    return "\n".join([*lines, "", reason, "", *(f"- {_cell(note)}" for note in notes)]) + "\n"


def _days(version: Registered | None) -> str:
    if version is None or not version.interval[0]:
        return "not known"
    start, end = (instant[:10] for instant in version.interval)
    return f"{start} up to but not {end}"


def _auc(version: Registered | None) -> str:
    return "not known" if version is None or version.auc is None else f"{version.auc:.4f}"


def _verdict(version: Registered | None) -> str:
    return "not known" if version is None or version.verdict is None else str(version.verdict)


def _cell(text: str) -> str:
    """In one line, and no end of a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _write(path: Path, told: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(told, indent=1))
