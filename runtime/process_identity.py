"""Names a process for others to find: by what is it known, does it live, and can it be stopped from here."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path

log = logging.getLogger(__name__)


def name_of(pid: int) -> str:
    """Names a process so that no other is taken for it: host, PID namespace, boot, pid and its start in clock ticks.

    Args:
      pid: Its number in this PID namespace.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')} {boot} {pid} {_start(pid)}"


def is_beside(name: str) -> bool:
    """Whether a process is, or was, one of this machine and this PID namespace, where its number means something.

    A container has the machine's name where it shares its network, and numbers of its own.

    Args:
      name: As `name_of` gives it; "" is nowhere.
    """
    return name.split()[:2] == name_of(os.getpid()).split()[:2]


def is_dead(name: str) -> bool:
    """Whether a process has certainly ended: of those elsewhere nothing is certain."""
    return is_beside(name) and name != name_of(_pid(name))


def kill(name: str) -> None:
    """Kills the process group of a process beside this one, if it still lives; never this process itself."""
    pid = _pid(name)
    if pid == os.getpid() or name != name_of(pid):
        return
    log.warning("An earlier attempt still runs as process %d; it is stopped.", pid)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)


def _pid(name: str) -> int:
    return int(name.split()[3])


def _start(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""
