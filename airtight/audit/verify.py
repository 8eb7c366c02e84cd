"""Whether an audit log is whole: its chain, the files that were set aside, and the anchors in ML Metadata."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

from airtight.audit import chain
from airtight.audit.chain import CHANGED, INSERTED, NOTE, REMOVED, SEALED, TORN, TRUNCATED, Anchor, Finding, Line
from airtight.audit.log import AuditLog

DONE, OPEN, UNKNOWN = "done", "open", "unknown"
"""What ML Metadata says of the attempt that wrote a line: it succeeded, it did not (yet), there was none."""


def verify(log: AuditLog, anchors: Iterable[Anchor], state_of: Callable[[Mapping[str, Any]], str]) -> list[Finding]:
    """Everything that is wrong with a log, in the order of the lines, and what else is to be known of it (notes).

    Args:
      log: The log.
      anchors: Those in the artifacts of its pipeline.
      state_of: Says of a line's `by` whether ML Metadata knows the attempt: `DONE`, `OPEN` or `UNKNOWN`.

    Raises:
      TerminalError: The file cannot be read.
    """
    lines, is_torn = log.lines()
    anchors = list(anchors)
    anchored = {anchor.sha256 for anchor in anchors}
    findings = chain.check(lines, is_torn=is_torn, anchored=anchored)
    earlier, last_sealed = _sealed(log, lines, findings)
    known = {line.sha256 for line in lines} | earlier
    last = chain.last_number(lines)
    for anchor in sorted(anchors, key=lambda anchor: (anchor.line, anchor.kept_in)):
        if anchor.sha256 in known:
            continue
        if anchor.line <= last_sealed:
            message = f"{anchor.kept_in} names a line of a file that was set aside broken, which is not in it."
            findings.append(Finding(anchor.line, NOTE, message))
        elif anchor.line > last:
            message = f"{anchor.kept_in} names it, and the log ends with line {last}."
            findings.append(Finding(anchor.line, TRUNCATED, message))
        elif not any(finding.line == anchor.line and finding.kind == REMOVED for finding in findings):
            message = f"{anchor.kept_in} names it by the digest {anchor.sha256}, which no line has."
            findings.append(Finding(anchor.line, CHANGED, message))
    for line in lines:
        if line.entry and line.sha256 not in anchored and line.entry["act"] not in (SEALED, TORN):
            findings.append(_without_anchor(line, state_of(line.entry["by"])))
    return sorted(findings, key=lambda finding: finding.line)


def _sealed(log: AuditLog, lines: list[Line], findings: list[Finding]) -> tuple[set[str], int]:
    """Adds what is to be said of the files that were set aside.

    Returns:
      The digests of their lines, and the number of the last of them.
    """
    digests: set[str] = set()
    following, last = lines, 0
    for file in reversed(log.sealed()):
        content = file.read_bytes()
        old, _ = chain.split(content)
        seal = following[0] if following and following[0].entry.get("act") == SEALED else None
        last = max(last, chain.last_number(old))
        digests |= {line.sha256 for line in old}
        if seal is None or seal.previous != sha256(content).hexdigest():
            message = f"{file.name}, which was set aside, is not as it was then."
            findings.append(Finding(chain.last_number(old), CHANGED, message))
        following = old
    missing = bool(following) and following[0].entry.get("act") == SEALED
    if missing:
        name = following[0].entry["details"].get("file", "a file")
        findings.append(Finding(following[0].number - 1, REMOVED, f"{name}, which was set aside, is missing."))
    for line in lines[:1] if lines and lines[0].entry.get("act") == SEALED else ():
        entry = line.entry
        details, user = entry["details"], entry["by"].get("user", "somebody")
        why = f"{entry['reason']} ({'; '.join(map(str, details.get('findings', ())))})"
        message = f"{user} set {details.get('file', 'a file')} aside at {entry['at']}: {why}"
        findings.append(Finding(line.number, NOTE, message))
    return digests, last


def _without_anchor(line: Line, state: str) -> Finding:
    if state == OPEN:
        return Finding(line.number, NOTE, "no artifact names it: its task ended, or goes on, before it had published.")
    why = "whose attempt published others" if state == DONE else "and ML Metadata knows no attempt that wrote it"
    return Finding(line.number, INSERTED, f"no artifact names it, {why}.")
