"""Checks and shows the audit log of a pipeline: who had which version pushed, served or taken back, when and why.

    python -m commands.audit --pipeline NAME verify
    python -m commands.audit --pipeline NAME show
    python -m commands.audit --pipeline NAME seal --reason "restored from a backup"

`verify` finds lines that were removed, changed, inserted or cut off, by the chain of digests and by the anchors that
the artifacts in ML Metadata keep; its exit status is 1 where there are any. `seal` sets a broken log aside, so that
acts can be written down again.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from typing import Any

from airtight.audit.actor import user_of_shell
from airtight.audit.chain import NOTE
from airtight.audit.log import AuditLog
from airtight.audit.verify import verify
from airtight.errors import TerminalError
from airtight.home import Home
from airtight.supervised import Supervised
from commands import arguments

VERIFY, SHOW, SEAL = ACTIONS = "verify", "show", "seal"
BROKEN = 1
"""Exit status of `verify` where something is wrong."""


def report(name: str, home: Home) -> tuple[list[str], bool]:
    """Verifies a log.

    Args:
      name: Name of the pipeline.
      home: The state folder.

    Returns:
      What is to be said, line by line, and whether the log is whole.
    """
    from runtime import metadata_connection
    from runtime.lineage import anchors

    store = metadata_connection.project_store(home)
    log = AuditLog(name, home)
    known = anchors.anchors_of(store, name)
    findings = verify(log, known, functools.partial(anchors.state_of, store))
    lines, _ = log.lines()
    faults = [finding for finding in findings if finding.kind != NOTE]
    head = f", the last one {lines[-1].sha256}" if lines else ""
    outcome = f"is broken: {len(faults)} findings" if faults else "is whole"
    summary = f"The audit log of {name} {outcome}. Lines: {len(lines)}{head}; anchors in ML Metadata: {len(known)}."
    return [*map(str, findings), summary], not faults


def table(name: str, home: Home, version: int = 0) -> list[str]:
    """The acts of a log, one a line, the oldest first.

    Args:
      name: Name of the pipeline.
      home: The state folder.
      version: Only those that name this version; 0 for all.
    """
    lines, _ = AuditLog(name, home).lines()
    entries = [line.entry or {"act": "not readable"} for line in lines]
    shown = [in_words(entry) for entry in entries if version in (0, entry.get("version"))]
    return shown or [f"The audit log of {name} has no such line."]


def in_words(entry: dict[str, Any]) -> str:
    """One act in one line."""
    by = entry.get("by", {})
    who = ", ".join(str(by[name]) for name in ("user", "dag_id", "run_id", "node") if by.get(name))
    version = f" {entry['version']}" if entry.get("version") else ""
    reason = f": {' '.join(entry['reason'].split())}" if entry.get("reason") else ""
    act = f"{entry['act']}{version}{reason}"
    return f"{entry.get('number', 0):>5}  {entry.get('at', ''):<29}  {act}" + (f"  [{who}]" if who else "")


def main(args: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, 1 for a broken log, 64 or 75 for a fault."""
    parser = arguments.parser("commands.audit", __doc__ or "")
    parser.add_argument("action", nargs="?", choices=ACTIONS, default=VERIFY, help="what to do; verify by default")
    parser.add_argument("--version", type=int, default=0, help="show only what names this version")
    parser.add_argument("--reason", default="", help="why a broken log is sealed; it is kept")

    def command(settings: Supervised, chosen: argparse.Namespace) -> int:
        name, home = settings.name, Home.current()
        if chosen.action == SHOW:
            print("\n".join(table(name, home, chosen.version)))
            return 0
        if chosen.action == SEAL:
            if not chosen.reason:
                raise TerminalError(
                    "A log is sealed for a reason.",
                    expected='--reason "..."',
                    received="none",
                    remedy="Say why; the new log begins with it.",
                )
            print(f"The broken log lies in {AuditLog(name, home).seal(chosen.reason, user_of_shell())}.")
            return 0
        lines, is_whole = report(name, home)
        print("\n".join(lines))
        return 0 if is_whole else BROKEN

    return arguments.run(parser, args, command)


if __name__ == "__main__":
    sys.exit(main())
