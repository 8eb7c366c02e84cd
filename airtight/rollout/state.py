"""Releases under way: which version is tried beside which, on what share of the requests.

`models/releases.json` is written by the steps of a release and read again and again by the router, which says in its
status which releases it follows. It holds one release at most for each model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from airtight.errors import TerminalError
from airtight.files import write_text

FILE = "releases.json"
"""In the models' root, beside `models.config`."""
CANARY, SPLIT, SHADOW = MODES = ("canary", "split", "shadow")
"""canary: a share of the requests, drawn at random, is answered by the candidate. split: the same, drawn by a hash of
the request's key, so that a caller keeps its side (A/B). shadow: the stable version answers all; a share is asked of
the candidate too, whose answers are compared and not returned."""
KEY_HEADER = "x-request-key"
"""HTTP header and gRPC metadata by which a caller keeps its side; without it a request is drawn at random."""


@dataclass(frozen=True)
class Release:
    """One release under way.

    Args:
      model: The model's name.
      id: Of this release, and of no other; what the router counts is counted for it.
      stable: The version that is served.
      candidate: The version that is tried.
      mode: One of `MODES`.
      share: Of the requests that ask for no version, 0 to 1, that the candidate gets; 0 while a release is taken back,
        1 while it is taken over.
      since: When it began, ISO 8601, UTC.
      until: ISO 8601 with its offset: from then on it counts as broken off, and the candidate gets no request. Empty is
        no such time.
      margins: By how much the candidate may be worse (`airtight.rollout.rules.Margins`); the router tells by them how
        the release stands. Empty are the defaults.
      low: Answers are compared in units of the range from `low` to `high`, in which nearly all of them lie: 0 to 1 for
        probabilities, and for other numbers what evaluate has measured.
      high: See `low`.

    Raises:
      TerminalError: A mode, share, time or range that is none.
    """

    model: str
    id: str
    stable: int
    candidate: int
    mode: str = CANARY
    share: float = 0.1
    since: str = ""
    until: str = ""
    margins: Mapping[str, Any] = field(default_factory=dict)
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise TerminalError(
                f"The release of version {self.candidate} of {self.model} cannot be.",
                expected="a range of answers from low to high",
                received=f"{self.low!r} to {self.high!r}",
                remedy="Correct the release's range.",
            )
        if self.mode not in MODES or not 0 <= self.share <= 1:
            raise TerminalError(
                f"The release of version {self.candidate} of {self.model} cannot be.",
                expected=f"a mode of {', '.join(MODES)} and a share from 0 to 1",
                received=f"{self.mode!r} and {self.share!r}",
                remedy="Correct the release's mode and share.",
            )
        if self.until and not _is_instant(self.until):
            raise TerminalError(
                f"The release of version {self.candidate} of {self.model} cannot be.",
                expected="until to be ISO 8601 with an offset, or empty",
                received=repr(self.until),
                remedy="Correct the release's until.",
            )


def read(root: Path) -> dict[str, Release]:
    """The releases under way, by model; none where there is no file.

    Args:
      root: The models' root.

    Raises:
      TerminalError: The file cannot be read as such.
    """
    path = root / FILE
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(Release)}
        return {model: Release(model=model, **_known(entry, names)) for model, entry in payload.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise TerminalError(
            "The file that says which releases are under way cannot be read.",
            expected="JSON, an object of releases by model",
            received=f"{path}: {error}",
            remedy="Correct the file, or remove it: then no release is under way.",
        ) from error


def write(root: Path, releases: Mapping[str, Release]) -> None:
    """Replaces the file; the caller sees to it that nobody else does at the same time."""
    payload = {name: {k: v for k, v in asdict(one).items() if k != "model"} for name, one in sorted(releases.items())}
    write_text(root / FILE, json.dumps(payload, indent=1) + "\n")


def _is_instant(text: object) -> bool:
    try:
        return isinstance(text, str) and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _known(entry: Any, names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name in names - {"model"}}
