"""The child that the launcher forks ahead: it waits until it is given the connection of a request."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from runtime.handover import reap


@dataclass(frozen=True)
class SpareChild:
    """A child without a request, as the launcher sees it.

    Args:
      pid: Its number.
      line: The launcher's side of the socket on which it waits.
    """

    pid: int
    line: socket.socket

    def take(self, connection: socket.socket) -> bool:
        """Gives it the connection of a request; False where it has ended meanwhile."""
        with self.line, contextlib.suppress(OSError):
            socket.send_fds(self.line, [b"\0"], [connection.fileno()])
            return True
        return False

    def dismiss(self, temporary: Path) -> None:
        """Ends it.

        Args:
          temporary: The folder that holds the nodes' temporary folders.
        """
        self.line.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        reap(self.pid, temporary)


def wait_for_connection(line: socket.socket, lifeline: int) -> socket.socket | None:
    """Waits, in the child, for the connection of its request; None where there comes none.

    Args:
      line: The child's side.
      lifeline: Descriptor that becomes readable when the launcher is gone or ends.
    """
    with line:
        either = select.poll()
        for descriptor in (line.fileno(), lifeline):
            either.register(descriptor, select.POLLIN)
        if any(descriptor == lifeline for descriptor, _ in either.poll()):
            return None
        _, descriptors, _, _ = socket.recv_fds(line, 1, 1)
    if not descriptors:
        return None
    os.set_inheritable(descriptors[0], False)
    return socket.socket(fileno=descriptors[0])
