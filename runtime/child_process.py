"""Processes that serve one request: their environment, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from airtight.home import ROOT
from runtime.protocol import OF_OTHERS

STOP_S = 8.0
"""A process has so long to clean up."""


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has, without reaping it: until then nobody else can have its number."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end(process: subprocess.Popen[bytes]) -> None:
    """Gives the process the time to clean up, then ends its whole group; nothing is left to do when it is reaped."""
    if process.returncode is not None:
        return
    deadline = time.monotonic() + STOP_S
    # Not reaped before its group is killed: until then nobody else can have its number.
    while time.monotonic() < deadline:
        if has_ended(process):
            break
        time.sleep(0.02)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def environment() -> dict[str, str]:
    """The environment of a process of its own: this one's, without what no node sees."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    seen = {name: value for name, value in os.environ.items() if not name.startswith(OF_OTHERS)}
    return seen | {"PYTHONPATH": os.pathsep.join(paths)}
