"""The versions of a model that could be served: what lies on disk, joined with what metadata know of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tfx.types import artifact

from airtight.files import digest_of_tree
from airtight.verdict import FILE_NAME, Verdict
from components.modelling import judged
from components.modelling.served import versions_in

_NAMES_WHAT_WAS_PUSHED = "model_digest"


@dataclass(frozen=True)
class Registered:
    """One version.

    Args:
      number: The version.
      folder: Where it lies.
      interval: Start and end of the data that judged it, ISO 8601; empty where no push is known.
      digest: Of what was pushed; empty where no push is known.
      verdict: What evaluate said of it, or None.
      auc: ROC AUC on its interval; None where it is not known.
    """

    number: int
    folder: Path
    interval: tuple[str, str] = ("", "")
    digest: str = ""
    verdict: Verdict | None = None
    auc: float | None = None

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
            versions[number] = Registered(number, base_path / str(number))
            continue
        interval, digest = _interval(push), push.get_string_custom_property(_NAMES_WHAT_WAS_PUSHED)
        evaluation = evaluated.get((digest, interval))
        folder, verdict, auc = base_path / str(number), _verdict(evaluation), _auc(evaluation)
        versions[number] = Registered(number, folder, interval, digest, verdict, auc)
    return versions


def _interval(made: artifact.Artifact) -> tuple[str, str]:
    return made.get_string_custom_property("interval_start"), made.get_string_custom_property("interval_end")


def _digest(evaluation: artifact.Artifact) -> str:
    return evaluation.get_string_custom_property(judged.DIGEST)


def _auc(evaluation: artifact.Artifact | None) -> float | None:
    if evaluation is None or not evaluation.has_custom_property(judged.ROC_AUC):
        return None
    return float(evaluation.get_float_custom_property(judged.ROC_AUC))


def _verdict(evaluation: artifact.Artifact | None) -> Verdict | None:
    if evaluation is None or not (Path(evaluation.uri) / FILE_NAME).is_file():
        return None
    return Verdict.read(Path(evaluation.uri))
