"""Sends a request, for a node or a compilation, to the warm launcher where it runs, to a new process otherwise.

Standard library only: Airflow's tasks and DAG files use it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from airtight.errors import TransientError
from airtight.home import ROOT, Home
from runtime import child_process, containers
from runtime.logs import legible
from runtime.protocol import (
    Outcome,
    Request,
    decode_outcome,
    encode_request,
    receive,
    socket_address,
)

log = logging.getLogger(__name__)

PYTHON = "AIRTIGHT_PYTHON"
"""Names the interpreter of cold processes when it is not the one that runs Airflow."""
_CONTAINER_S = 120.0
_CONNECT_TIMEOUT_S = 5.0
_PATIENCE_S = 30.0
_AGAIN_S = 0.2
_DRAIN_S = 0.2
_KILLED = 128


class Call:
    """One request under way: iterate over its lines, then read its outcome.

    Use it as a context manager: entering it starts the work, leaving it early ends the work and all its processes.

    Args:
      request: What to do.
      launcher: The warm launcher's socket, or None for a process of its own.
      interpreter: A Python to do it with, by its path, instead of the launcher.
      image: An image, in a container of which it is done, instead of by the launcher.
    """

    def __init__(self, request: Request, launcher: Path | None, *, interpreter: str = "", image: str = "") -> None:
        self._request, self._interpreter, self._image = request, interpreter, image
        self._launcher = None if interpreter or image else launcher
        self._outcome: Outcome | None = None
        self._connection: socket.socket | None = None
        self._output = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._container = ""
        self._is_stopped = False
        self.where = ""
        """Where it is done, in words; "" before it is."""

    def __enter__(self) -> Call:
        """Starts it.

        Raises:
          TransientError: It was stopped before, no container comes up, or the request cannot be sent.
        """
        try:
            self._connection = self._start()
            self._check_stopped()
            self._output, theirs = os.pipe()
            try:
                socket.send_fds(self._connection, [encode_request(self._request)], [theirs])
            except OSError as error:
                raise _lost(f"the request could not be sent: {error}") from error
            finally:
                os.close(theirs)
        except BaseException:
            # Whatever broke it off, a task's timeout included: nobody else knows the process or the container.
            self.cancel()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cancel()

    def _start(self) -> socket.socket:
        if self._image:
            self.where = f"a container of {self._image}"
            return self._start_container()
        if self._launcher and (connection := _connect(self._launcher, self._check_stopped)):
            self.where = "the warm launcher"
            return connection
        self.where = "a new process"
        self._check_stopped()
        return self._start_process()

    def _check_stopped(self) -> None:
        if self._is_stopped:
            raise TransientError(
                "The node was stopped before it began.",
                expected=f"time for {self.where or 'the launcher'} to come up",
                received="a signal to stop",
                remedy="Clear the task to run it again.",
            )

    def lines(self) -> Iterator[str]:
        """Yields what the work prints, line by line, until it has ended, without what native libraries say."""
        return legible(self._printed())

    def _printed(self) -> Iterator[str]:
        assert self._connection is not None, "the call is not entered"
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        poll.register(self._connection, select.POLLIN)
        rest, deadline, open_ends = b"", float("inf"), 2
        while open_ends and time.monotonic() < deadline:
            # A process that the work left behind may hold the output open, so the outcome ends the waiting.
            wait = None if self._outcome is None else max(0.0, deadline - time.monotonic()) * 1000
            for descriptor, _ in poll.poll(wait):
                if descriptor == self._output:
                    part = os.read(self._output, 65536)
                    *whole, rest = (rest + part).split(b"\n")
                    yield from (line.decode(errors="replace") for line in whole)
                    closed = not part
                else:
                    self._outcome, closed = self._receive(), True
                    deadline = time.monotonic() + _DRAIN_S
                if closed:
                    poll.unregister(descriptor)
                    open_ends -= 1
        if rest:
            yield rest.decode(errors="replace")

    @property
    def outcome(self) -> Outcome:
        """What became of it; waits for the end.

        Raises:
          TransientError: The process ended without telling.
        """
        for _ in self.lines() if self._outcome is None else ():
            pass
        assert self._outcome is not None
        return self._outcome

    def stop(self) -> None:
        """Asks the work to end; its last lines and its outcome still come. Safe in a signal handler, and at any time.

        What has not started yet does not start.
        """
        self._is_stopped = True
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)

    def cancel(self) -> None:
        """Ends the work and every process of it; harmless when it has ended."""
        if self._connection is not None:
            self._connection.close()
        elif self._container:
            # It does not serve yet, so there is nothing that it could clean up.
            containers.remove(self._container)
        if self._process is not None:
            child_process.end(self._process)
        if self._container:
            containers.remove(self._container)
            self._container = ""
        if self._output >= 0:
            os.close(self._output)
            self._output = -1

    def _start_process(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            # The process reads the request from its standard input, which is also how it notices our end.
            self._process = subprocess.Popen(
                [self._interpreter or os.environ.get(PYTHON) or sys.executable, "-m", "runtime", "answer"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env=child_process.environment(),
                start_new_session=True,
            )
        return ours

    def _start_container(self) -> socket.socket:
        """Starts a container that serves one request on a socket in the state folder, and connects to it."""
        home = Home(Path(self._request.home))
        name = f"airtight-{uuid.uuid4().hex}"
        path = home.run / f"{name[:20]}.sock"
        self._check_stopped()
        with tempfile.TemporaryFile() as printed:
            try:
                self._process = subprocess.Popen(
                    containers.command(name, self._image, home, path),
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=printed,
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise containers.not_started(self._image, str(error)) from error
            self._container = name
            deadline = time.monotonic() + _CONTAINER_S
            try:
                while time.monotonic() < deadline and not child_process.has_ended(self._process):
                    self._check_stopped()
                    if connection := _connect(path, self._check_stopped):
                        return connection
                    time.sleep(0.05)
            finally:
                path.unlink(missing_ok=True)
            printed.seek(0)
            message = printed.read().decode(errors="replace").strip()[-500:]
        raise containers.not_started(self._image, message or f"nothing on its socket within {_CONTAINER_S:.0f} s")

    def _receive(self) -> Outcome:
        assert self._connection is not None
        frame = receive(self._connection)
        if frame and frame["kind"] == "outcome":
            return decode_outcome(frame)
        status = frame["status"] if frame else self._status()
        return Outcome.failure(_lost(_ended(status)))

    def _status(self) -> int | None:
        if self._process is None:
            return None
        child_process.end(self._process)
        code = self._process.returncode
        if self._container and code > _KILLED:
            # What an engine's client and an init process make of a signal.
            code = _KILLED - code
        return -code if code < 0 else code << 8


def call(request: Request, launcher: Path | None) -> Outcome:
    """Does a request and waits, without its output.

    Args:
      request: What to do.
      launcher: The warm launcher's socket, or None for a process of its own.
    """
    with Call(request, launcher) as started:
        return started.outcome


def _connect(launcher: Path, check: Callable[[], None]) -> socket.socket | None:
    """Connects; None where no launcher is. Calls `check` again and again, which may raise.

    A socket that refuses is what a launcher left behind that was killed. Its supervisor starts it again within some
    15 s, which costs less than that many processes of their own that import TFX each. One that would block has a full
    backlog: its launcher starts anew, or many ask at once.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_CONNECT_TIMEOUT_S)
        try:
            with socket_address(launcher) as address:
                connection.connect(address)
            break
        except (FileNotFoundError, TimeoutError, PermissionError):
            connection.close()
            return None
        except (ConnectionRefusedError, BlockingIOError):
            connection.close()
            if time.monotonic() > deadline:
                return None
            check()
            time.sleep(_AGAIN_S)
    connection.settimeout(None)
    return connection


def _ended(status: int | None) -> str:
    if status is None:
        return "the launcher went away"
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"it was killed by {name}" + (" (is memory short?)" if name == "SIGKILL" else "")
    return f"it ended with exit status {os.waitstatus_to_exitcode(status)}"


def _lost(how: str) -> TransientError:
    return TransientError(
        "The node's process ended without an outcome.",
        expected="an outcome",
        received=how,
        remedy="Look at the lines above and at the launcher's log; the task is tried again.",
    )
