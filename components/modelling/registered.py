"""The versions of a model that could be served: what lies on disk, joined with what metadata know of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tfx.types import artifact

from airtight import served_history
from airtight.files import digest_of_tree
from airtight.served_history import Takeover
from airtight.verdict import FILE_NAME, Verdict
from components.modelling import judged, version_number
from components.modelling.metric_names import ANSWERS, metrics_of
from components.modelling.served import versions_in

_NAMES_WHAT_WAS_PUSHED = "model_digest"
_OF_PUSH = ("pushed", "took_over", "awaits_release", "overridden", "version", "interval_end", _NAMES_WHAT_WAS_PUSHED)
_OF_PROMOTION = ("model", "took_over", "changed", "to_version", "interval_end", "as_of")


@dataclass(frozen=True)
class Registered:
    """One version.

    Args:
      number: The version.
      folder: Where it lies.
      interval: Start and end of the data that judged it, ISO 8601. Where no push is known, the start is empty, and the
        end as well unless its number tells it.
      digest: Of what was pushed; empty where no push is known.
      verdict: What evaluate said of it, or None.
      metric: Title and value of its foremost metric on its interval; None where it is not known.
      answers: The range in which nearly all of its answers lie on its interval; None where it is not known.
    """

    number: int
    folder: Path
    interval: tuple[str, str] = ("", "")
    digest: str = ""
    verdict: Verdict | None = None
    metric: tuple[str, float] | None = None
    answers: tuple[float, float] | None = None

    def fault(self) -> str:
        """Why it should not be served; empty when nothing is known against it."""
        if not (self.folder / "saved_model.pb").is_file():
            return "its folder holds no SavedModel"
        if self.digest and digest_of_tree(self.folder) != self.digest:
            return "its files are no longer those that were pushed"
        return ""


def registered(
    base_path: Path, pushed: Iterable[artifact.Artifact], evaluations: Iterable[artifact.Artifact]
) -> dict[int, Registered]:
    """Every version on disk by its number.

    Args:
      base_path: Folder of the model's versions.
      pushed: `PushedModel` of all runs.
      evaluations: `ModelEvaluation` of all runs.
    """
    # A number may have been pushed again; the later push is the one that lies there.
    pushes = {
        push.get_int_custom_property("version"): push
        for push in sorted(pushed, key=lambda push: push.id)
        if push.get_int_custom_property("pushed") == 1
    }
    in_order = sorted(evaluations, key=lambda evaluation: evaluation.id)
    evaluated = {(_digest(evaluation), _interval(evaluation)): evaluation for evaluation in in_order}
    versions = {}
    for number in versions_in(base_path):
        push = pushes.get(number)
        if push is None:
            # It may have been pushed longer ago than the newest pushes that are given.
            end = version_number.end_of(number)
            versions[number] = Registered(number, base_path / str(number), ("", end.isoformat() if end else ""))
            continue
        interval, digest = _interval(push), push.get_string_custom_property(_NAMES_WHAT_WAS_PUSHED)
        evaluation = evaluated.get((digest, interval))
        folder, verdict = base_path / str(number), _verdict(evaluation)
        versions[number] = Registered(
            number, folder, interval, digest, verdict, _metric(evaluation), _answers(evaluation)
        )
    return versions


def latest_end(known: Iterable[Registered]) -> str:
    """The end of the latest interval of which a version is registered, ISO 8601; empty where none is known."""
    ends = (version.interval[1] for version in known if version.interval[1])
    return max(ends, key=datetime.fromisoformat, default="")


def version_of(
    champion: Sequence[artifact.Artifact] | None, champion_pushed: Sequence[artifact.Artifact] | None
) -> int:
    """The version of a champion that is handed on with its push; 0 where none served."""
    return int(champion_pushed[0].get_int_custom_property("version")) if champion and champion_pushed else 0


def champions(
    model: str,
    pushed: Iterable[artifact.Artifact],
    promotions: Iterable[artifact.Artifact],
    instant: datetime,
    count: int = 1,
) -> list[int]:
    """The version that served last by an instant of data time, and those before it (`airtight.served_history`).

    Args:
      model: The model's name; promotions of another do not count.
      pushed: `PushedModel` of all runs of the model, or the newest and those that took over last by then.
      promotions: `Promotion` of all runs, or the newest and those that were made last by then.
      instant: Such as the start of an interval.
      count: So many versions at most.
    """
    return [takeover.version for takeover in takeovers(model, pushed, promotions, instant, count)]


def takeovers(
    model: str,
    pushed: Iterable[artifact.Artifact],
    promotions: Iterable[artifact.Artifact],
    instant: datetime,
    count: int = 1,
) -> list[Takeover]:
    """How the champions of `champions` took over; arguments as there."""
    pushes, promoted = _takeovers_of_pushes(pushed), _takeovers_of_promotions(model, promotions)
    return served_history.served(served_history.latest_of(pushes), promoted, instant, count)


def served_before(
    model: str,
    current: int,
    known: Iterable[Registered],
    pushed: Iterable[artifact.Artifact],
    promotions: list[artifact.Artifact],
) -> set[int]:
    """The versions that may take the place of the one that is served: those that served, and were not taken back since.

    Args:
      model: The model's name; promotions of another do not count.
      current: The version that is served.
      known: The versions that are there. One of which no push is known is taken for one that served.
      pushed: `PushedModel` of all runs.
      promotions: `Promotion` of all runs.
    """
    known, pushed = list(known), list(pushed)
    unknown = {version.number for version in known if not version.digest}
    if not (end := latest_end(known)):
        return unknown
    known_takeovers = [*_takeovers_of_pushes(pushed), *_takeovers_of_promotions(model, promotions)]
    stem = version_number.stem(current)
    attempts = {
        takeover.version
        for takeover in known_takeovers
        if version_number.stem(takeover.version) == stem and not takeover.was_taken_back(known_takeovers)
    }
    return {*unknown, *attempts, *champions(model, pushed, promotions, datetime.fromisoformat(end), len(known))}


def _takeovers_of_pushes(pushed: Iterable[artifact.Artifact]) -> list[Takeover]:
    return served_history.takeovers_of_pushes((push.id, _values(push, _OF_PUSH)) for push in pushed)


def _takeovers_of_promotions(model: str, promotions: Iterable[artifact.Artifact]) -> list[Takeover]:
    records = ((promotion.id, _values(promotion, _OF_PROMOTION)) for promotion in promotions)
    made = (served_history.takeover_of_promotion(p, order) for order, p in records if p.get("model") == model)
    return [takeover for takeover in made if takeover]


def _values(recorded: artifact.Artifact, names: Iterable[str]) -> dict[str, object]:
    return {
        name: getattr(recorded, name) if recorded.has_property(name) else recorded.get_custom_property(name)
        for name in names
        if recorded.has_property(name) or recorded.has_custom_property(name)
    }


def _interval(made: artifact.Artifact) -> tuple[str, str]:
    return made.get_string_custom_property("interval_start"), made.get_string_custom_property("interval_end")


def _digest(evaluation: artifact.Artifact) -> str:
    return evaluation.get_string_custom_property(judged.DIGEST)


def _metric(evaluation: artifact.Artifact | None) -> tuple[str, float] | None:
    if evaluation is None:
        return None
    names = evaluation.mlmd_artifact.custom_properties
    properties = {name: evaluation.get_custom_property(name) for name in names}
    foremost = next(iter(metrics_of(properties).items()), None)
    return (foremost[1], float(properties[foremost[0]])) if foremost else None


def _answers(evaluation: artifact.Artifact | None) -> tuple[float, float] | None:
    if evaluation is None or not all(map(evaluation.has_custom_property, ANSWERS)):
        return None
    low, high = (float(evaluation.get_float_custom_property(name)) for name in ANSWERS)
    return low, high


def _verdict(evaluation: artifact.Artifact | None) -> Verdict | None:
    if evaluation is None or not (Path(evaluation.uri) / FILE_NAME).is_file():
        return None
    return Verdict.read(Path(evaluation.uri))
