"""How a launcher replaces itself: the same process with new code, which keeps its socket and its running nodes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from runtime.protocol import load_file

log = logging.getLogger(__name__)

_VARIABLE = "AIRTIGHT_LAUNCHER_HANDOVER"
_AGAIN_S = 2.0
# Libraries add variables of their own when they are imported; the successor starts with those of the first process.
_ENVIRONMENT = {key: value for key, value in os.environ.items() if key != _VARIABLE}
T = TypeVar("T")


@dataclass(frozen=True)
class Handover:
    """What a launcher leaves to its successor.

    Args:
      listener: File descriptor of the listening socket; clients that connect meanwhile wait in its backlog.
      lifeline: File descriptor that the nodes watch: its other side closes when the launcher is gone.
      alive: The other side of the lifeline.
      temporary: Folder that holds the nodes' temporary folders.
      children: For each process that runs its pid and the file descriptor of its connection, -1 for none.
      ended: Number of requests whose process has ended.
      died: Number of those whose process ended without an outcome.
    """

    listener: int
    lifeline: int
    alive: int
    temporary: str
    children: list[tuple[int, int]]
    ended: int = 0
    died: int = 0

    @classmethod
    def received(cls) -> Handover | None:
        """Gives what the predecessor left; None in a launcher that had none."""
        text = os.environ.pop(_VARIABLE, "")
        if not text:
            return None
        handover = cls(**json.loads(text))
        handover._set_inheritable(False)
        return handover

    def leave(self) -> None:
        """Replaces this process's code by what is installed now; never returns.

        Raises:
          OSError: There is no interpreter where this one was, and no node runs that would end with this process.
        """
        self._set_inheritable(True)
        sys.stdout.flush()
        sys.stderr.flush()
        environment = _ENVIRONMENT | {_VARIABLE: json.dumps(asdict(self))}
        while True:
            try:
                os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
            except OSError as error:
                if not self._nodes_run():
                    raise
                log.warning("There is no interpreter, which is tried again: %s.", error)
                time.sleep(_AGAIN_S)

    def complete(self, imports: Callable[[], T], path: Path) -> T:
        """Does the successor's imports; they are repeated while they fail and nodes run that would end with it.

        Args:
          imports: Imports what the nodes share.
          path: The unix socket.

        Returns:
          What `imports` returns.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit())
        try:
            try:
                return imports()
            except Exception as error:
                if self._nodes_run():
                    # An installer is at work, most likely. Imports that ended half way only a new process undoes.
                    log.warning("What is installed cannot be imported, which is tried again: %r.", error)
                    time.sleep(_AGAIN_S)
                    self.leave()
                raise
        except BaseException:
            shutil.rmtree(self.temporary, ignore_errors=True)
            load_file(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise

    def _nodes_run(self) -> bool:
        return any(not has_ended(pid) for pid, _ in self.children)

    def _set_inheritable(self, inheritable: bool) -> None:
        connections = [descriptor for _, descriptor in self.children if descriptor >= 0]
        for descriptor in (self.listener, self.lifeline, self.alive, *connections):
            os.set_inheritable(descriptor, inheritable)


def has_ended(pid: int) -> bool:
    """Whether a child has ended; it is not reaped, so that nobody else can have its number yet."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
