"""The form of the audit log: one JSON object a line, in canonical form, each with the SHA-256 of the line before."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

NOTHING = "0" * 64
"""What the first line of all has in place of the digest of the line before."""
TORN, SEALED = "line torn", "log sealed"
"""Acts of the log itself: a line whose write was broken off was ended; a broken log was set aside."""
CHANGED, REMOVED, INSERTED, TRUNCATED, NOTE = "changed", "removed", "inserted", "truncated", "note"
"""Kinds of findings. A note is no fault."""


_TYPES = {"number": int, "previous": str, "act": str, "reason": str, "at": str, "details": dict, "by": dict}
"""What every line has."""


@dataclass(frozen=True)
class Line:
    """One line, as it lies in the file.

    Args:
      raw: Its bytes, without the end of the line.
    """

    raw: bytes

    @cached_property
    def sha256(self) -> str:
        """What the next line, and an anchor, names it by."""
        return sha256(self.raw).hexdigest()

    @cached_property
    def entry(self) -> dict[str, Any]:
        """What it says; empty where it is no line in canonical form."""
        try:
            entry = json.loads(self.raw)
        except (ValueError, RecursionError):
            return {}
        is_ours = isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in _TYPES.items())
        return entry if is_ours and encode(entry) == self.raw else {}

    @property
    def number(self) -> int:
        """Its number, from 1 on; 0 where it is no line of a log."""
        return int(self.entry.get("number", 0))

    @property
    def previous(self) -> str:
        """Digest of the line before."""
        return str(self.entry.get("previous", ""))


@dataclass(frozen=True)
class Anchor:
    """A line's digest, kept outside of the log: in the artifact of the act.

    Args:
      log: Name of the log.
      line: The line's number.
      sha256: Its digest, which covers all lines before it, too.
      kept_in: What keeps it, in words.
    """

    log: str
    line: int
    sha256: str
    kept_in: str = field(default="", compare=False)

    @classmethod
    def of(cls, properties: Mapping[str, Any], kept_in: str) -> Anchor:
        """The inverse of `properties`."""
        log, line, digest = (properties.get(name) for name in ("audit_log", "audit_line", "audit_sha256"))
        return cls(str(log), int(line or 0), str(digest), kept_in)

    @property
    def properties(self) -> dict[str, str | int]:
        """Custom properties of the artifact."""
        return {"audit_log": self.log, "audit_line": self.line, "audit_sha256": self.sha256}


@dataclass(frozen=True)
class Finding:
    """Something that a check of the log met.

    Args:
      line: Number of the line.
      kind: `CHANGED`, `REMOVED`, `INSERTED`, `TRUNCATED` or `NOTE`.
      message: What is the matter, one sentence.
    """

    line: int
    kind: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.kind}: {self.message}"


def encode(entry: Mapping[str, Any]) -> bytes:
    """A line's bytes: sorted names, no spaces, ASCII, no NaN."""
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def split(content: bytes) -> tuple[list[Line], bool]:
    """The lines of a file, and whether the last one is torn: its write was broken off."""
    *whole, rest = content.split(b"\n")
    lines = [Line(raw) for raw in whole]
    if rest:
        lines.append(Line(rest))
    return lines, bool(rest) and not lines[-1].entry


def check(lines: Sequence[Line], *, is_torn: bool = False, anchored: Collection[str] = ()) -> list[Finding]:
    """What is wrong with a chain, by itself; nothing where it is whole.

    A chain that ends early, and one that was written anew from some line on, is whole by itself: anchors tell that.

    Args:
      lines: All lines of a file.
      is_torn: Whether the write of the last one was broken off.
      anchored: Digests of lines that are known to be genuine.
    """
    return list(_findings(lines, is_torn, anchored))


def last_number(lines: Sequence[Line]) -> int:
    """The number of the last line, also of one whose write was broken off; 0 without lines."""
    return next((line.number + after for after, line in enumerate(reversed(lines)) if line.entry), len(lines))


def _findings(lines: Sequence[Line], is_torn: bool, anchored: Collection[str]) -> Iterator[Finding]:
    # The first line after a seal goes on with the numbers, and names the digest of the file that was set aside.
    is_sealed = bool(lines) and lines[0].entry.get("act") == SEALED
    expected, previous = (lines[0].number, lines[0].previous) if is_sealed else (1, NOTHING)
    places: dict[tuple[int, str], list[int]] = {}
    for place, line in enumerate(lines):
        places.setdefault((line.number, line.previous), []).append(place)
    followed = {line.previous for line in lines} | set(anchored)
    place = 0
    while place < len(lines):
        # Of several that claim the same place in the chain, the one that others follow is its own.
        fitting = [other for other in places.get((expected, previous), ()) if other >= place]
        if fitting:
            own = next((other for other in fitting if lines[other].sha256 in followed), fitting[0])
            for other in range(place, own):
                yield Finding(expected, INSERTED, f"at place {other + 1} of the file is a line that no other follows.")
            place = own
        elif (line := lines[place]).number > expected:
            last = line.number - 1
            gone = f"lines {expected} to {last} are" if last > expected else f"line {expected} is"
            yield Finding(expected, REMOVED, f"{gone} missing.")
            expected = line.number
        elif line.number == expected and expected > 1:
            was = f"when line {expected} was written, it had the digest {line.previous}"
            yield Finding(expected - 1, CHANGED, f"{was}; now it has {previous}.")
        elif line.entry:
            yield Finding(expected, INSERTED, f"at place {place + 1} of the file is a line numbered {line.number}.")
            place += 1
            continue
        else:
            yield _not_a_line(expected, lines[place + 1 : place + 2], is_torn)
        expected, previous = expected + 1, lines[place].sha256
        place += 1


def _not_a_line(number: int, following: Sequence[Line], is_torn: bool) -> Finding:
    if not following and is_torn:
        return Finding(number, NOTE, "its write was broken off; the next act ends it.")
    if following and following[0].entry.get("act") == TORN:
        return Finding(number, NOTE, f"its write was broken off, as line {following[0].number} says.")
    return Finding(number, CHANGED, "it is no line of an audit log in canonical form.")
