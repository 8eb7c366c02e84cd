"""Which version scores an interval: the one that is served now, the one of then, or one that is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tfx.types import artifact

from airtight.errors import TerminalError
from airtight.files import digest_of_tree
from components.modelling.model_server import ModelServer
from components.modelling.registered import champions
from components.modelling.saved_model import serving_folder
from components.modelling.served import Served
from components.rollout.switch import current

SERVED, AS_OF, FORMER = "served", "as_of", "former"
"""What may be asked for beside a number: what is served now, what had served last when the interval began, or the
champion before that one."""


class NoFormerChampion(TerminalError):
    """There is no champion before that of an interval, or it is gone."""


class FormerChampionGone(NoFormerChampion):
    """There was one, but its files are gone or not those that were pushed."""


@dataclass(frozen=True)
class Chosen:
    """A version, and its SavedModel.

    Args:
      number: The version.
      folder: Where its SavedModel lies.
      digest: Of that folder.
    """

    number: int
    folder: Path
    digest: str


def choose(
    version: str,
    model: str,
    start: datetime,
    served: Served,
    server: ModelServer | None,
    pushed: Sequence[artifact.Artifact],
    promotions: Sequence[artifact.Artifact] = (),
) -> Chosen:
    """Finds the version that is asked for, and sees that its files are those that were pushed.

    Args:
      version: `served`, `as_of`, `former` or a number. `as_of` goes by data time: what counts from the end of an
        interval on was judged and pushed later, at the earliest after the label delay.
      model: The model's name.
      start: When the interval begins.
      served: The versions on disk, and what is chosen of them.
      server: The server that knows what is served; None takes what the next server would.
      pushed: `PushedModel` of all runs.
      promotions: `Promotion` of all runs: which versions took over later, or again.

    Raises:
      NoFormerChampion: `former` is asked for, and there is none (`FormerChampionGone` where there was one).
      TerminalError: There is no such version, or its files are not those that were pushed.
      TransientError: The server cannot be reached.
    """
    # A number may have been pushed again; the later push is the one that lies there.
    pushes = {
        push.get_int_custom_property("version"): push
        for push in sorted(pushed, key=lambda each: each.id)
        if push.get_int_custom_property("pushed") == 1
    }
    # What nobody knows to have been pushed can be promoted, and is nobody's champion.
    promoted = [promotion for promotion in promotions if promotion.to_version in pushes]
    champion = champions(model, pushed, promoted, start, 2)
    number = _number(version.strip(), model, start, served, server, champion, pushes)
    push = pushes.get(number)
    # What is served is cleaned up by other rules than artifacts are: either place may have it still.
    folders = [served.root / model / str(number)]
    if push is not None:
        folders.append(serving_folder(push.get_string_custom_property("model_uri")))
    folder = next((folder for folder in folders if (folder / "saved_model.pb").is_file()), None)
    # A comparison ends with what it compares; whoever asks for another version cannot go on without it.
    refusal = FormerChampionGone if version.strip() == FORMER else TerminalError
    if folder is None:
        expected = f"a SavedModel in {folders[0]}"
        raise _missing(f"version {number} of {model}", expected, served.versions(model), refusal)
    digest = digest_of_tree(folder)
    expected = push.get_string_custom_property("model_digest") if push is not None else digest
    if digest != expected:
        raise refusal(
            f"The files of version {number} of {model} are no longer those that were pushed.",
            expected=f"the digest {expected}",
            received=f"{digest} in {folder}",
            remedy="Push the interval's model once more, or choose another version.",
        )
    return Chosen(number, folder, digest)


def _number(
    version: str,
    model: str,
    start: datetime,
    served: Served,
    server: ModelServer | None,
    champion: Sequence[int],
    pushes: Iterable[int],
) -> int:
    if version.isdecimal():
        return int(version)
    if version == SERVED:
        number = current(served, served.choice(model).settled, server, model)
        if not number:
            raise _missing(f"a version of {model} that is served", "a model that was pushed", served.versions(model))
        return number
    if version == FORMER:
        if len(champion) < 2:  # noqa: PLR2004 - the champion, and the one before it
            raise NoFormerChampion(
                f"There was no champion before that of {start.isoformat()}.",
                expected=f"a version of {model} that served before the champion of then",
                received=f"the versions {', '.join(map(str, champion)) or 'none'}",
                remedy="Nothing is to be done: there is none to compare with.",
            )
        return champion[1]
    if version == AS_OF:
        if not champion:
            expected = f"a version of an interval that ended by {start.isoformat()}, that served"
            raise _missing(f"a version of {model} of then", expected, sorted(pushes))
        return champion[0]
    raise TerminalError(
        "That is no version to score with.",
        expected=f"{SERVED}, {AS_OF}, {FORMER} or a number such as 201307010400001",
        received=repr(version),
        remedy="Correct the version.",
    )


def _missing(
    what: str, expected: str, there: Sequence[int], refusal: type[TerminalError] = TerminalError
) -> TerminalError:
    return refusal(
        f"There is no {what.removeprefix('a ')}.",
        expected=expected,
        received=f"the versions {', '.join(map(str, there))}" if there else "no version",
        remedy="Run the pipeline that trains and pushes it for an earlier interval, or choose another version.",
    )
