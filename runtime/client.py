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
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from airtight.errors import AirtightError, TransientError
from airtight.home import ROOT, Home
from runtime.compiled_pipeline import CompiledPipeline, path_of
from runtime.logs import legible
from runtime.protocol import CompileRequest, Outcome, Request, decode_outcome, encode_request, receive

log = logging.getLogger(__name__)

PYTHON = "AIRTIGHT_PYTHON"
"""Names the interpreter of cold processes when it is not the one that runs Airflow."""
ENGINE = "AIRTIGHT_CONTAINER_ENGINE"
"""Names the command that runs containers; docker by default."""
_PASSED = (
    "AIRTIGHT_METADATA",
    "AIRTIGHT_MODEL_SERVER",
    "AIRTIGHT_ROUTER",
    "SPARK_REMOTE",
    "SPARK_TOKEN_FILE",
    "TF_CPP_MIN_LOG_LEVEL",
    "DO_NOT_TRACK",
)
_CONTAINER_S = 120.0
_CONNECT_TIMEOUT_S = 5.0
_PATIENCE_S = 30.0
_AGAIN_S = 0.2
_DRAIN_S = 0.2
_STOP_S = 8.0


class Call:
    """One request under way: iterate over its lines, then read its outcome.

    Use it as a context manager: leaving it early ends the work and all its processes.

    Args:
      request: What to do.
      launcher: The warm launcher's socket, or None for a process of its own.
      interpreter: A Python to do it with, by its path, instead of the launcher.
      image: An image, in a container of which it is done, instead of by the launcher.
    """

    def __init__(self, request: Request, launcher: Path | None, *, interpreter: str = "", image: str = "") -> None:
        self._outcome: Outcome | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._container = ""
        connection = _connect(launcher) if launcher and not interpreter and not image else None
        self.where = "the warm launcher" if connection else f"a container of {image}" if image else "a new process"
        if image:
            connection = self._start_container(image, Home(Path(request.home)))
        self._connection = connection or self._start(interpreter)
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
        """Yields what the work prints, line by line, until it has ended, without what native libraries say."""
        return legible(self._printed())

    def _printed(self) -> Iterator[str]:
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
        self._end_processes()

    def _end_processes(self) -> None:
        if self._process is not None:
            _end(self._process)
        if self._container:
            subprocess.run([_engine(), "rm", "--force", self._container], capture_output=True, check=False)

    def _start(self, interpreter: str) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            # The process reads the request from its standard input, which is also how it notices our end.
            self._process = subprocess.Popen(
                [interpreter or os.environ.get(PYTHON) or sys.executable, "-m", "runtime", "answer"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(_paths())},
                start_new_session=True,
            )
        return ours

    def _start_container(self, image: str, home: Home) -> socket.socket:
        """Starts a container that serves one request on a socket in the state folder, and connects to it."""
        name = f"airtight-{uuid.uuid4().hex}"
        path = home.run / f"{name[:20]}.sock"
        passed = [option for key in _PASSED if os.environ.get(key) for option in ("--env", key)]
        command = [
            *(_engine(), "run", "--rm", "--init", "--name", name, "--network", "host"),
            *("--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{home.path}:{home.path}"),
            *("--env", f"AIRTIGHT_HOME={home.path}", *passed, image),
            *("python", "-m", "runtime", "answer", "--socket", str(path)),
        ]
        said = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
        except FileNotFoundError as error:
            raise _no_container(image, str(error)) from error
        self._container = name
        deadline = time.monotonic() + _CONTAINER_S
        try:
            while time.monotonic() < deadline and not _has_ended(self._process):
                if connection := _connect(path):
                    return connection
                time.sleep(0.05)
            said.seek(0)
            told = said.read().decode(errors="replace").strip()[-500:]
            raise _no_container(image, told or f"nothing on its socket within {_CONTAINER_S:.0f} s")
        except BaseException:
            # Whatever broke the waiting off, a task's timeout included: nobody else knows the container's name.
            self._end_processes()
            raise
        finally:
            path.unlink(missing_ok=True)

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


def fresh(pipeline: str, home: Home, *, say: Callable[[str], None] = log.info) -> CompiledPipeline:
    """Reads a compiled pipeline; compiles it first if it is missing or older than its sources.

    Args:
      pipeline: A folder of `pipelines/`, `package.module:function`, or the path of an IR file.
      home: The state folder.
      say: Takes one line when it is compiled.

    Raises:
      AirtightError: The pipeline does not compile.
    """
    path = path_of(pipeline, home)
    try:
        compiled = CompiledPipeline.read(path)
        reason = compiled.stale()
    except AirtightError:
        # Missing, or written by an older version: nothing is lost by making it again.
        compiled, reason = None, "it was never compiled here"
    if compiled is not None and not reason:
        return compiled
    say(f"Compiling the pipeline {pipeline}, because {reason}.")
    call(CompileRequest(pipeline, str(home.path)), home.launcher_socket).raise_if_failed()
    return CompiledPipeline.read(path)


def _connect(launcher: Path) -> socket.socket | None:
    """Connects; None where no launcher is.

    A socket that refuses is what a launcher left behind that was killed. Its supervisor starts it again within some
    15 s, which costs less than that many processes of their own that import TFX each.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_CONNECT_TIMEOUT_S)
        try:
            connection.connect(str(launcher))
            break
        except (FileNotFoundError, ConnectionRefusedError, TimeoutError, PermissionError) as error:
            connection.close()
            if not isinstance(error, ConnectionRefusedError) or time.monotonic() > deadline:
                return None
            time.sleep(_AGAIN_S)
    connection.settimeout(None)
    return connection


def _engine() -> str:
    return os.environ.get(ENGINE) or "docker"


def _no_container(image: str, received: str) -> TransientError:
    return TransientError(
        f"No container of {image} came up.",
        expected=f"`{_engine()} run` to start it, with this project and its packages in it",
        received=received,
        remedy=f"See that the engine runs and has the image; {ENGINE} names another engine.",
    )


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has, without reaping it: until then nobody else can have its number."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Gives the process the time to clean up, then ends its whole group."""
    deadline = time.monotonic() + _STOP_S
    # Not reaped before its group is killed: until then nobody else can have its number.
    while time.monotonic() < deadline:
        if _has_ended(process):
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
