"""One file says what is served: `models.config` in the models' root, TensorFlow Serving's own config in text format.

`push` enters a model with its first version, `promote` and a release choose among the versions; the model server, ours
or TensorFlow Serving's, reads the file again and again. Who chose, when and why stands in comments, for which the
format has no other place. What a person added by hand beside (another model, logging) stays.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from airtight.errors import TerminalError
from airtight.files import write_text

FILE = "models.config"
STABLE = "stable"
"""The label of the version that was promoted, by a person or by a release."""
CANARY = "canary"
"""The label of the version that a release tries."""
RELEASE = "release"
"""Who chose a version where no person did: a push that left it to a release, or the release's decision."""
_HEAD = "# What the model server serves; push, promote and releases write it (docs/serving.md).\n"
_REASON_FIELDS = ("at", "by", "reason", "trial", "release", "owner", "until")
_AFTER = "after"
_CHOSEN = re.compile(r"^# chosen (\S+) (\{.*\})$", re.MULTILINE)


@dataclass(frozen=True)
class Choice:
    """Which versions of one model are served, and who wanted that.

    Args:
      versions: Exactly these; none means the highest that there is.
      labels: Names for some of them, such as {"stable": 201307010400001}.
      at: When it was chosen, ISO 8601; empty where nobody chose.
      by: Who approved it, as far as that is known.
      reason: Why.
      trial: A version that is only tried beside what was chosen, while a promotion or release is under way; 0 for none.
      release: Id of the release under way; empty where there is none.
      owner: Whose release it is, such as a DAG run; empty where nobody said.
      until: ISO 8601; a release that is still there then was broken off.
      after: What is chosen when the release has ended, or again when a promotion was broken off.
    """

    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    at: str = ""
    by: str = ""
    reason: str = ""
    trial: int = 0
    release: str = ""
    owner: str = ""
    until: str = ""
    after: Choice | None = None

    @property
    def settled(self) -> Choice:
        """What was chosen, without the trial of a promotion or release that is under way or was killed."""
        return self if self.after is None else self.after

    @property
    def pinned(self) -> int:
        """The version that stays served whatever is pushed; 0 where the highest is served."""
        chosen = self.settled
        return chosen.labels.get(STABLE) or max(chosen.versions, default=0)

    @classmethod
    def only(cls, version: int, **fields: Any) -> Choice:
        """One version, under the label `stable`."""
        return cls((version,), {STABLE: version}, **fields)

    @property
    def in_words(self) -> str:
        """What was chosen, by whom, when and why; empty where the highest is served because nobody chose."""
        if not self.versions:
            return ""
        by = "a release or a push" if self.by == RELEASE else self.by
        details = [f"by {by}" if by else "", f"at {self.at}" if self.at else ""]
        words = " ".join(filter(None, ("chosen", *details))) if any(details) else "chosen"
        return f"version {self.pinned}, {words}{f': {self.reason}' if self.reason else ''}"

    def beside(self, version: int, served: int) -> Choice:
        """What is served now and one version more: the way to serve that one with no gap, and with no label too early.

        A server gives a label only to a version that it has loaded, and TensorFlow Serving refuses the whole file else.
        """
        both = tuple(sorted({version, served} - {0}))
        labels = {STABLE: served} if self.pinned and served else {}
        return dataclasses.replace(self, versions=both, labels=labels, trial=version, after=self.settled)

    @property
    def is_left_to_a_release(self) -> bool:
        """Whether a version stays served because no release has put another one in its place, and no person chose."""
        return bool(self.versions) and self.by == RELEASE

    @property
    def is_a_persons(self) -> bool:
        """Whether a person chose a version: then no push, nor a release that it asks for, changes that."""
        return bool(self.versions) and self.by != RELEASE


HIGHEST = Choice()
"""The highest version that there is: what is served of a model of which nobody chose a version."""


class Served:
    """What is served of all models in one root.

    Args:
      root: Folder of the models; `root/<model>/<version>/` is a version.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / FILE

    def choice(self, model: str) -> Choice:
        """What is to be served of a model.

        Raises:
          TerminalError: The file cannot be read.
        """
        config, reasons = self._read()
        for entry in config.model_config_list.config:
            if entry.name == model:
                why = reasons.get(model, {})
                versions = tuple(sorted(entry.model_version_policy.specific.versions))
                return Choice(versions, dict(entry.version_labels), **{**why, **_after(why)})
        return HIGHEST

    def enter(self, *models: str) -> None:
        """Sees that models are in the file; what is chosen for one that is there already stays.

        Raises:
          TerminalError: The file cannot be read.
        """
        with self._locked(f".{FILE}.lock"):
            config, reasons = self._read()
            there = {entry.name for entry in config.model_config_list.config}
            if self.file.exists() and there >= set(models):
                return
            for model in models:
                if model not in there:
                    self._append(config, model)
            self._write(config, reasons)

    def choose(self, model: str, choice: Choice) -> None:
        """Says what is to be served of a model from now on.

        Raises:
          TerminalError: The file cannot be read.
        """
        with self._locked(f".{FILE}.lock"):
            config, reasons = self._read()
            entry = next((e for e in config.model_config_list.config if e.name == model), None)
            entry = self._append(config, model) if entry is None else entry
            entry.ClearField("version_labels")
            entry.version_labels.update(choice.labels)
            entry.ClearField("model_version_policy")
            entry.model_version_policy.specific.versions.extend(choice.versions)
            if not choice.versions:
                entry.model_version_policy.latest.num_versions = 1
            reasons[model] = {name: value for name in _REASON_FIELDS if (value := getattr(choice, name))}
            if choice.after is not None:
                reasons[model][_AFTER] = {k: v for k, v in dataclasses.asdict(choice.after).items() if v}
            self._write(config, reasons)

    @contextlib.contextmanager
    def alone(self, model: str) -> Iterator[None]:
        """One change of what is served of a model after the other, from its beginning until the server has it."""
        with self._locked(f".{model}.promotion.lock"):
            yield

    def versions(self, model: str) -> list[int]:
        """The versions that lie in the model's folder, the highest last."""
        return versions_in(self.root / model)

    def _append(
        self, config: model_server_config_pb2.ModelServerConfig, model: str
    ) -> model_server_config_pb2.ModelConfig:
        entry = config.model_config_list.config.add(
            name=model, base_path=str((self.root / model).resolve()), model_platform="tensorflow"
        )
        entry.model_version_policy.latest.num_versions = 1
        return entry

    def _read(self) -> tuple[model_server_config_pb2.ModelServerConfig, dict[str, dict[str, Any]]]:
        config = model_server_config_pb2.ModelServerConfig()
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        try:
            text_format.Parse(text, config)
            reasons = {model: json.loads(why) for model, why in _CHOSEN.findall(text)}
        except (text_format.ParseError, ValueError) as error:
            raise TerminalError(
                "The file that says what is served cannot be read.",
                expected="a ModelServerConfig in protobuf's text format",
                received=f"{self.file}: {error}",
                remedy="Correct the file; the server goes on with what it serves.",
            ) from error
        return config, reasons

    def _write(
        self, config: model_server_config_pb2.ModelServerConfig, reasons: Mapping[str, Mapping[str, Any]]
    ) -> None:
        chosen = [f"# chosen {model} {json.dumps(why)}\n" for model, why in sorted(reasons.items()) if why]
        write_text(self.file, _HEAD + "".join(chosen) + text_format.MessageToString(config))

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _after(why: Mapping[str, Any]) -> dict[str, Choice]:
    """What is chosen after the release that a comment tells of."""
    if _AFTER not in why:
        return {}
    after = dict(why[_AFTER])
    return {_AFTER: Choice(tuple(after.pop("versions", ())), after.pop("labels", {}), **after)}


def versions_in(base_path: Path) -> list[int]:
    """The versions of a model that lie in its folder, the highest last."""
    if not base_path.is_dir():
        return []
    return sorted(int(entry.name) for entry in base_path.iterdir() if entry.name.isdecimal() and entry.is_dir())


def main(root: Path) -> None:
    """Makes the file before a server reads it, with the models that lie there already."""
    served = Served(root)
    if not served.file.exists():
        folders = root.iterdir() if root.is_dir() else ()
        served.enter(*sorted(folder.name for folder in folders if versions_in(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
