"""Which code and which environment a node ran with: the commit of the checkout and the digest of the lock."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

from airtight.files import digest_of_file

COMMIT, LOCK = "commit", "lock_digest"
"""Labels of an attempt. A commit with uncommitted changes of tracked files beside it ends in `-dirty`."""
VARIABLE = "AIRTIGHT_COMMIT"
"""Names the commit where there is no checkout, such as in an image."""
_PATIENCE_S = 10


def labels(root: Path) -> dict[str, str]:
    """What is known of the code in a folder.

    Args:
      root: The checkout.

    Returns:
      `COMMIT` and `LOCK`, each where it is known.
    """
    lock = root / "requirements.txt"
    known = {COMMIT: _commit(root), LOCK: digest_of_file(lock) if lock.is_file() else ""}
    return {name: value for name, value in known.items() if value}


@functools.cache
def _commit(root: Path) -> str:
    """The commit; read once, as a process runs the code that it began with."""
    if named := os.environ.get(VARIABLE):
        return named
    command = ("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):  # No git, no checkout, or one of another user's.
        return ""
    return done.stdout.strip()
