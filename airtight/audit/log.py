"""The audit log of a pipeline: a file to which acts are added, under a lock, flushed to disk before they count."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airtight.audit import actor, chain
from airtight.audit.chain import NOTE, NOTHING, SEALED, TORN, Anchor, Finding, Line
from airtight.errors import TerminalError
from airtight.files import full_disk_in_words
from airtight.home import Home

TRAINED, PUSHED, NOT_PUSHED, OVERRIDDEN = "trained", "pushed", "not pushed", "gate overridden"
PROMOTED, ROLLED_BACK = "promoted", "rolled back"
RELEASE_STARTED, RELEASE_NOT_STARTED, RELEASE_ENDED = "release started", "release not started", "release ended"
_SHOWN = 3
"""So many findings a fault quotes."""


class AuditLog:
    """The log of one pipeline, which is that of its model.

    Args:
      name: Name of the pipeline.
      home: The state folder; None for the current one.
    """

    def __init__(self, name: str, home: Home | None = None) -> None:
        self.name = name
        self.folder = (home or Home.current()).audit
        self.file = self.folder / f"{quote(name, safe='')}.jsonl"

    def lines(self) -> tuple[list[Line], bool]:
        """The lines of the present file, and whether the last one is torn; none where nobody has acted.

        Raises:
          TerminalError: The file cannot be read.
        """
        try:
            return chain.split(self.file.read_bytes())
        except FileNotFoundError:
            return [], False
        except OSError as error:
            raise self._fault(str(error.strerror)) from error

    def sealed(self) -> list[Path]:
        """The files that were found broken and set aside, the oldest first."""
        return sorted(self.folder.glob(f"{quote(self.name, safe='')}.sealed-*.jsonl"))

    def check(self) -> None:
        """Sees before an act that it can be written down.

        Raises:
          TerminalError: The chain is broken, or the file cannot be read or written.
        """
        with self._locked():
            self._whole()

    def append(
        self,
        act: str,
        *,
        version: int = 0,
        digest: str = "",
        interval: tuple[str, str] = ("", ""),
        reason: str = "",
        changed: bool = False,
        **details: Any,
    ) -> Anchor:
        """Writes an act down; returns when it is on disk.

        A retry finds the line that an attempt before it has written, and adds none, unless it changed something itself.

        Args:
          act: What was done.
          version: Of which version; 0 for none.
          digest: SHA-256 of the model's files.
          interval: The data interval, ISO 8601.
          reason: Why, or how, in words.
          changed: Whether this attempt changed what is served: then it is an act of its own.
          **details: What else there is to say, of JSON's types.

        Returns:
          The line's anchor, for the act's artifact.

        Raises:
          TerminalError: The chain is broken, or the file cannot be read or written.
          TransientError: The disk is full.
        """
        entry = {
            "act": act,
            "version": version,
            "digest": digest,
            "interval": list(interval),
            "reason": reason,
            "details": {name: value for name, value in details.items() if value not in ("", None)},
            "by": actor.current().to_json(),
        }
        with self._locked():
            lines, is_torn = self._whole()
            key = _key(entry)
            known = next((line for line in reversed(lines) if line.entry and _key(line.entry) == key), None)
            if known is not None and not changed and actor.current().series:
                return Anchor(self.name, known.number, known.sha256)
            written = self._write(lines, entry, is_torn=is_torn)
        return Anchor(self.name, written.number, written.sha256)

    def seal(self, reason: str, user: str) -> Path:
        """Sets a broken log aside, and begins a new one whose first line names its digest and what is wrong with it.

        Args:
          reason: Why, in a person's words.
          user: Who does it.

        Returns:
          Where the broken one lies.

        Raises:
          TerminalError: The log is whole, or cannot be read or written.
        """
        with self._locked():
            lines, is_torn = self.lines()
            faults = [str(finding) for finding in _faults(lines, is_torn)]
            if not faults:
                raise TerminalError(
                    f"The audit log of {self.name} is whole; it is not sealed.",
                    expected="a log whose chain is broken",
                    received=f"{len(lines)} lines that follow each other",
                    remedy="Nothing is to be done.",
                )
            content = self.file.read_bytes()
            aside = self.folder / f"{self.file.stem}.sealed-{len(self.sealed()) + 1:03}.jsonl"
            os.rename(self.file, aside)
            entry = {
                "act": SEALED,
                "reason": reason,
                "details": {"file": aside.name, "lines": len(lines), "findings": faults},
                "by": {"user": user},
            }
            self._add(_numbered(entry, chain.last_number(lines) + 1, sha256(content).hexdigest()))
        return aside

    def _whole(self) -> tuple[list[Line], bool]:
        lines, is_torn = self.lines()
        if faults := _faults(lines, is_torn):
            shown = "; ".join(map(str, faults[:_SHOWN])) + ("; ..." if len(faults) > _SHOWN else "")
            raise self._fault(shown)
        if not os.access(self.file if self.file.exists() else self.folder, os.W_OK):
            raise self._fault("a file that this user may not write")
        return lines, is_torn

    def _write(self, lines: list[Line], entry: dict[str, Any], *, is_torn: bool) -> Line:
        number, previous = chain.last_number(lines), lines[-1].sha256 if lines else NOTHING
        new = []
        if is_torn:
            new.append(_numbered({"act": TORN, "by": actor.current().to_json()}, number + 1, previous))
            number, previous = new[-1].number, new[-1].sha256
        new.append(_numbered(entry, number + 1, previous))
        self._add(*new)
        return new[-1]

    def _add(self, *lines: Line) -> None:
        """Adds lines, after the end of a last one that lacks it; a write that fails leaves the file as it was."""
        is_new = not self.file.exists()
        with full_disk_in_words(self.file), self.file.open("ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            content = b"".join(line.raw + b"\n" for line in lines)
            if size and not _ends_a_line(self.file):
                content = b"\n" + content
            try:
                while content:
                    content = content[file.write(content) :]
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), size)
                raise
        if is_new:
            handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / f".{self.file.name}.lock").open("w")
        except OSError as error:
            raise self._fault(str(error.strerror)) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fault(self, received: str) -> TerminalError:
        return TerminalError(
            f"The audit log of {self.name} cannot be added to.",
            expected=f"a log whose lines follow each other, which this user may write, at {self.file}",
            received=received,
            remedy=f"Look at it with `python -m commands.audit --pipeline {self.name} verify`. Put the file back as it "
            "was, or set it aside with `seal --reason ...`; then clear the task.",
        )


def check(model: str = "") -> None:
    """Sees before an act of the node that runs here that it can be written down; see `AuditLog.check`."""
    if name := model or actor.current().pipeline:
        AuditLog(name).check()


def append(act: str, model: str = "", **fields: Any) -> Anchor | None:
    """Writes an act of the node that runs here down; see `AuditLog.append`.

    Args:
      act: What was done.
      model: The model; empty for that of the pipeline that runs.
      **fields: As for `AuditLog.append`.

    Returns:
      The line's anchor; None where it is known neither which model nor who acts, as without a launcher.
    """
    name = model or actor.current().pipeline
    return AuditLog(name).append(act, **fields) if name else None


def _faults(lines: list[Line], is_torn: bool) -> list[Finding]:
    return [finding for finding in chain.check(lines, is_torn=is_torn) if finding.kind != NOTE]


def _numbered(entry: dict[str, Any], number: int, previous: str) -> Line:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    common = {"reason": "", "details": {}, "number": number, "previous": previous, "at": at}
    return Line(chain.encode({**common, **entry}))


def _key(entry: dict[str, Any]) -> str:
    """What is the same act, however often its task is tried."""
    by, details = entry["by"], entry["details"]
    parts = (by.get("series"), by.get("node"), entry["act"], entry.get("version"), entry.get("digest"))
    return json.dumps([*parts, details.get("release")])


def _ends_a_line(file: Path) -> bool:
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read(1) == b"\n"
