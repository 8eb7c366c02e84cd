"""Which code and which environment a node ran with: the commit of the checkout and the digest of the lock."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable
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


def _commit(root: Path) -> str:
    return begin(root)()


@functools.cache
def begin(root: Path) -> Callable[[], str]:
    """Starts to look for the commit, once, as a process runs the code that it began with; git takes 20 ms.

    Args:
      root: The checkout.

    Returns:
      A function that waits for the commit; "" where it is not known.
    """
    if named := os.environ.get(VARIABLE):
        return lambda: named
    command = ("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        git = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:  # No git.
        return lambda: ""

    @functools.cache
    def commit() -> str:
        try:
            described, _ = git.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            git.kill()
            return ""
        # It fails where there is no checkout, or one of another user's.
        return "" if git.returncode else described.strip()

    return commit
