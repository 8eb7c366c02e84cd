"""Asks for a node or a compilation: of the warm launcher where it runs, of a new process otherwise.

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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from airtight.errors import AirtightError, TransientError
from airtight.home import ROOT, Home
from runtime.bundle import Bundle, path_of
from runtime.protocol import CompileRequest, Outcome, Request, decode_outcome, encode_request, receive

log = logging.getLogger(__name__)

PYTHON = "AIRTIGHT_PYTHON"
"""Names the interpreter of cold processes when it is not the one that runs Airflow."""
_CONNECT_TIMEOUT_S = 5.0
_DRAIN_S = 0.2
_STOP_S = 8.0


class Call:
    """One request under way: iterate over its lines, then read its outcome.

    Use it as a context manager: leaving it early ends the work and all its processes.

    Args:
      request: What to do.
      launcher: The warm launcher's socket, or None for a process of its own.
    """

    def __init__(self, request: Request, launcher: Path | None) -> None:
        self.warm = False
        self._outcome: Outcome | None = None
        self._process: subprocess.Popen[bytes] | None = None
        connection = _connect(launcher) if launcher else None
        self.warm = connection is not None
        self._connection = connection or self._start()
        self._output, theirs = os.pipe()
        try:
            socket.send_fds(self._connection, [encode_request(request)], [theirs])
        except OSError as error:
            self.cancel()
            raise _lost(f"the request could not be sent: {error}") from error
        finally:
            os.close(theirs)

    def __enter__(self) -> Call:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cancel()
        os.close(self._output)

    def lines(self) -> Iterator[str]:
        """Yields what the work prints, line by line, until it has ended."""
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
        """Asks the work to end; its last lines and its outcome still come. Safe in a signal handler."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def cancel(self) -> None:
        """Ends the work and every process of it; harmless when it has ended."""
        self._connection.close()
        if self._process is not None:
            _end(self._process)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            # The process reads the request from its standard input, which is also how it notices our end.
            self._process = subprocess.Popen(
                [os.environ.get(PYTHON) or sys.executable, "-m", "runtime", "answer"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(_paths())},
                start_new_session=True,
            )
        return ours

    def _receive(self) -> Outcome:
        told = receive(self._connection)
        if told and told["kind"] == "outcome":
            return decode_outcome(told)
        status = told["status"] if told else self._status()
        return Outcome.failure(_lost(_ended(status)))

    def _status(self) -> int | None:
        if self._process is None:
            return None
        _end(self._process)
        code = self._process.returncode
        return -code if code < 0 else code << 8


def call(request: Request, launcher: Path | None) -> Outcome:
    """Does a request and waits, without its output.

    Args:
      request: What to do.
      launcher: The warm launcher's socket, or None for a process of its own.
    """
    with Call(request, launcher) as started:
        return started.outcome


def fresh(pipeline: str, home: Home, *, say: Callable[[str], None] = log.info) -> Bundle:
    """Reads the bundle of a pipeline; compiles it first when it is missing or no longer says what the sources say.

    Args:
      pipeline: A folder of `pipelines/`, `package.module:function`, or the path of an IR file.
      home: The state folder.
      say: Takes one line when it is compiled.

    Raises:
      AirtightError: The pipeline does not compile.
    """
    path = path_of(pipeline, home)
    try:
        bundle = Bundle.read(path)
        reason = bundle.stale()
    except AirtightError:
        # Missing, or written by an older version: nothing is lost by making it again.
        bundle, reason = None, "it was never compiled here"
    if bundle is not None and not reason:
        return bundle
    say(f"Compiling the pipeline {pipeline}, because {reason}.")
    call(CompileRequest(pipeline, str(home.path)), home.launcher_socket).raise_if_failed()
    return Bundle.read(path)


def _connect(launcher: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_CONNECT_TIMEOUT_S)
    try:
        connection.connect(str(launcher))
    except (FileNotFoundError, ConnectionRefusedError, TimeoutError, PermissionError):
        connection.close()
        return None
    connection.settimeout(None)
    return connection


def _end(process: subprocess.Popen[bytes]) -> None:
    """Gives the process the time to clean up, then ends its whole group."""
    deadline = time.monotonic() + _STOP_S
    # Not reaped before its group is killed: until then nobody else can have its number.
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.02)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _paths() -> list[str]:
    return [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]


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
