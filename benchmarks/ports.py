"""Free ports for what is started beside the services of the machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

_FIRST, _COUNT = 20_000, 12_000
"""Below the ports that Linux gives to connections: none of those takes one before it is used, or while what listens
there starts anew."""
_offsets = itertools.count(os.getpid() * 997)
"""Processes that ask at the same time begin far from each other, and a process is given none twice."""


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    free: list[int] = []
    while len(free) < count:
        port = _FIRST + next(_offsets) % _COUNT
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            free.append(port)
    return free


def free_port() -> int:
    """One such port."""
    return free_ports(1)[0]
