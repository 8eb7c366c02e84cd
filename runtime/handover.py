"""How a launcher replaces itself: the same process with new code, which keeps its socket and its running nodes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeVar

from runtime.protocol import encode_exit, load_file

log = logging.getLogger(__name__)

ATTEMPTS = 10
"""So often a launcher tries again to take over while nodes run; then it waits for their end, and ends."""
STOPS = (signal.SIGTERM, signal.SIGINT)
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
      failed: How often the successor has failed to come up.
    """

    listener: int
    lifeline: int
    alive: int
    temporary: str
    children: list[tuple[int, int]]
    ended: int = 0
    died: int = 0
    failed: int = 0

    @classmethod
    def received(cls) -> Handover | None:
        """Gives what the predecessor left; None in a launcher that had none."""
        text = os.environ.pop(_VARIABLE, "")
        if not text:
            return None
        handover = cls(**json.loads(text))
        handover._set_inheritable(False)
        return handover

    def leave(self, path: Path) -> NoReturn:
        """Replaces this process's code by what is installed now; a signal to stop waits for the successor.

        Args:
          path: The unix socket.

        Raises:
          OSError: There is no interpreter where this one was, and no node runs that would end with this process.
          SystemExit: The launcher was asked to stop.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        sys.stdout.flush()
        sys.stderr.flush()
        left = self
        while True:
            left._set_inheritable(True)
            try:
                environment = _ENVIRONMENT | {_VARIABLE: json.dumps(asdict(left))}
                os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
            except OSError as error:
                left = left._after(error, path)

    def complete(self, imports: Callable[[], T], path: Path) -> T:
        """Does the successor's imports; they are repeated while they fail and nodes run that would end with it.

        Args:
          imports: Imports what the nodes share.
          path: The unix socket.

        Returns:
          What `imports` returns.
        """
        for number in STOPS:
            signal.signal(number, lambda *_: sys.exit())
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            try:
                return imports()
            except Exception as error:  # noqa: BLE001 - whatever an import of half a library raises
                # An installer is at work, most likely. Imports that ended half way only a new process undoes.
                self._after(error, path).leave(path)
        except BaseException:
            remove_traces(path, Path(self.temporary))
            raise

    def _after(self, error: Exception, path: Path) -> Handover:
        """Waits after a failure; gives what goes over at the next attempt. Raises the error when no node runs."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        left = self._reaped()
        if left.children and left.failed == ATTEMPTS:
            log.error(
                "What is installed cannot be used, and is not tried again: %r. The launcher ends when its %d processes "
                "have ended; until then new nodes run in processes of their own.",
                error,
                len(left.children),
            )
            _refuse(left.listener, path)
            while left.children:
                _pause()
                left = left._reaped()
        if not left.children:
            raise error
        log.warning("What is installed cannot be used, which is tried again: %r.", error)
        _pause()
        return replace(left, failed=left.failed + 1)

    def _reaped(self) -> Handover:
        """Reaps the children that have ended; gives what is left."""
        children, ended, died = [], self.ended, self.died
        for pid, descriptor in self.children:
            if not has_ended(pid):
                children.append((pid, descriptor))
                continue
            status = reap(pid, Path(self.temporary))
            log.info("The process %d ended with status %d.", pid, status)
            if descriptor >= 0:
                ended, died = ended + 1, died + (status != 0)
                send_exit(socket.socket(fileno=descriptor), status)
        return replace(self, children=children, ended=ended, died=died)

    def _set_inheritable(self, inheritable: bool) -> None:
        connections = [descriptor for _, descriptor in self.children if descriptor >= 0]
        for descriptor in (self.listener, self.lifeline, self.alive, *connections):
            os.set_inheritable(descriptor, inheritable)


def has_ended(pid: int) -> bool:
    """Whether a child has ended; it is not reaped, so that nobody else can have its number yet."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def reap(pid: int, temporary: Path) -> int:
    """Reaps a child that has ended; what it started and what it wrote to its temporary folder ends with it.

    Args:
      pid: Its number, and that of its process group.
      temporary: The folder that holds the nodes' temporary folders.

    Returns:
      Its status, as `os.waitpid` gives it.
    """
    # The group is killed before the pid is reaped: no one can reuse it yet.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    shutil.rmtree(temporary / str(pid), ignore_errors=True)
    return os.waitpid(pid, 0)[1]


def send_exit(connection: socket.socket, status: int) -> None:
    """Tells a client how its node's process ended, and closes the connection."""
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.sendall(encode_exit(status))


def remove_traces(path: Path, temporary: Path) -> None:
    """Removes what a launcher that ends would leave: its socket, the note of its load and the nodes' folders."""
    shutil.rmtree(temporary, ignore_errors=True)
    load_file(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Removes the nodes' folders of a launcher that was killed, which its note of the load names."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        shutil.rmtree(json.loads(load_file(path).read_text(encoding="utf-8"))["temporary"], ignore_errors=True)


def _refuse(listener: int, path: Path) -> None:
    """Lets nobody connect from now on, and turns those away who wait in the backlog."""
    path.unlink(missing_ok=True)
    with socket.socket(fileno=os.dup(listener)) as backlog, contextlib.suppress(BlockingIOError):
        backlog.setblocking(False)
        while True:
            backlog.accept()[0].close()


def _pause() -> None:
    """Waits a while; ends this process where a signal to stop comes."""
    if signal.sigtimedwait(STOPS, _AGAIN_S) is not None:
        sys.exit()
