"""Finds and ends every process of the local services, also those that left their parent's process group."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from airtight.errors import TransientError
from airtight.home import Home
from services.environment import MARK

TERMINATE_S = 8.0
"""How long a process may take to end by itself before it is killed."""


def alive(home: Home) -> list[int]:
    """Process ids of everything that the services of this state folder started and that still runs.

    Airflow's tasks and the launcher's nodes are process groups of their own, and a killed parent leaves them behind;
    what they cannot leave behind is the environment that they were started with.
    """
    mark = f"{MARK}={home.path}".encode()
    return [pid for pid in _pids() if mark in _environment(pid) and not _over(pid)]


def end_all(home: Home) -> int:
    """Ends what `alive` finds: asks first, kills what does not go.

    Returns:
      How many processes were found.

    Raises:
      TransientError: The machine does not let one go, such as while it waits for a disk.
    """
    signalled: set[int] = set()
    deadline = time.monotonic() + TERMINATE_S
    # One that is ending has lost its environment before it closes its ports, so what was found is waited for by its id.
    while left := {*alive(home), *(pid for pid in signalled if not _over(pid))}:
        # Asked once each; a process that starts another one while it goes is met in the next round.
        kill = time.monotonic() > deadline
        for pid in left if kill else [pid for pid in left if pid not in signalled]:
            _send(pid, signal.SIGKILL if kill else signal.SIGTERM)
        signalled.update(left)
        time.sleep(0.05)
        if time.monotonic() > deadline + TERMINATE_S:
            raise TransientError(
                "Some processes of the local services do not end.",
                expected=f"every process gone {2 * TERMINATE_S:g} s after it was asked to end",
                received=[f"{pid} {name(pid)}" for pid in left],
                remedy="Look at them (ps), and run make stop again.",
            )
    return len(signalled)


@contextlib.contextmanager
def stopped(home: Home) -> Iterator[None]:
    """Stops everything that `alive` finds, as a laptop's sleep or a hanging disk does, and lets it go on at the end."""
    pids: set[int] = set()
    try:
        # Again, because one that is met late may have started another.
        while fresh := set(alive(home)) - pids:
            # Noted before it is stopped, so that an interruption leaves none behind.
            pids |= fresh
            for pid in fresh:
                _send(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            _send(pid, signal.SIGCONT)


def name(pid: int) -> str:
    """The command line of a process, shortened for a person; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:120]
    except OSError:
        return ""


def _send(pid: int, number: int) -> None:
    """Sends a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


def _environment(pid: int) -> list[bytes]:
    """Empty for a process that is gone or is another user's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _over(pid: int) -> bool:
    """Whether a process is gone, with all its threads; a zombie that nobody has waited for counts as gone."""
    try:
        # The name stands in brackets and may hold anything; the state is the letter after the last bracket.
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
        return state == "X" or (state == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1)
    except OSError:
        return True
