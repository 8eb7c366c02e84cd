"""Model servers without the four seconds in which each imports TensorFlow: forks of a process that has imported it.

That `python -m serving` starts is tried where servers run as services (tests/services/test_supervisor.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

PROGRAM = """
import json, os, runpy, sys, traceback

import uvloop
import serving.server

def serve(module, flags, environment, folder, output):
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sink = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for number, replaced in ((os.open(os.devnull, os.O_RDONLY), 0), (sink, 1), (sink, 2)):
        os.dup2(number, replaced)
    sys.argv = [module, *flags]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code
    except BaseException:
        traceback.print_exc()
        return 1

for line in sys.stdin:
    what, *how = json.loads(line)
    if what == "wait":
        answer = os.waitstatus_to_exitcode(os.waitpid(how[0], 0)[1])
    else:
        answer = os.fork()
        if answer == 0:
            status = serve(*how)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status or 0)
    print(answer, flush=True)
"""


class _Template:
    """The process that is forked; it ends with the one that started it."""

    def __init__(self, folder: Path) -> None:
        # As the server sets them before it imports TensorFlow.
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=folder,
            env={**os.environ, **quiet, "PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lock = threading.Lock()

    def ask(self, *request: object) -> int:
        with self._lock:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            return int(self._process.stdout.readline())


@functools.cache
def _template(folder: Path) -> _Template:
    return _Template(folder)


class Fork:
    """A server that is such a fork; it is used as a `subprocess.Popen`.

    Args:
      module: What is run, as by `python -m`.
      flags: Its arguments.
      environment: Its environment.
      folder: The checkout, in which it runs.
      output: The file to which it writes what it says.
    """

    def __init__(
        self, module: str, flags: Sequence[str], environment: dict[str, str], folder: Path, output: Path
    ) -> None:
        self._template = _template(folder)
        self.pid = self._template.ask("serve", module, list(flags), environment, str(folder), str(output))
        self._ended = os.pidfd_open(self.pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits until it has ended; gives the exit status."""
        if self.returncode is None:
            ended = select.poll()
            ended.register(self._ended, select.POLLIN)
            if not ended.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(f"server {self.pid}", timeout or 0)
            self.returncode = self._template.ask("wait", self.pid)
            os.close(self._ended)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)
