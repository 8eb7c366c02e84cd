"""The model server with a candidate alone, as a process that lives for a moment."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from airtight.errors import TransientError
from airtight.home import ROOT
from components.modelling.model_server import ModelServer

CANDIDATE, VERSION = "candidate", 1
"""Under which the server has it."""
POLL_S = 0.05
LOG_TAIL = 2000
"""Characters of the server's log that an error repeats."""


@dataclass(frozen=True)
class CandidateServer:
    """The server, as it runs.

    Args:
      process: Leads a process group of its own.
      rest: Its REST side.
      grpc_address: "host:port".
    """

    process: subprocess.Popen
    rest: ModelServer
    grpc_address: str


@contextlib.contextmanager
def serve(folder: Path, timeout_s: float) -> Iterator[CandidateServer]:
    """The model server as a process of its own; when the block ends, or this process dies, it is gone.

    Args:
      folder: The SavedModel, which is copied.
      timeout_s: The server listens within so long; `await_loaded` waits for the model.

    Raises:
      TransientError: The server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="try-serving-") as scratch:
        base_path, ready, output = Path(scratch, CANDIDATE), Path(scratch, "ready.json"), Path(scratch, "log")
        shutil.copytree(folder, base_path / str(VERSION))
        command = [sys.executable, "-m", "serving", "--port=0", "--rest_api_port=0", "--exit_with_stdin"]
        command += [f"--model_name={CANDIDATE}", f"--model_base_path={base_path}", f"--ready_file={ready}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with output.open("wb") as sink:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,  # Closed by the kernel when this process dies, however it dies.
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            ports = _await_ready(process, ready, output, timeout_s)
            rest = ModelServer(f"http://127.0.0.1:{ports['rest_api_port']}", timeout_s=30)
            yield CandidateServer(process, rest, f"127.0.0.1:{ports['port']}")
            rest.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _await_ready(process: subprocess.Popen, ready: Path, output: Path, timeout_s: float) -> dict[str, int]:
    deadline = time.monotonic() + timeout_s
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            ended = "it ended" if process.returncode is not None else "it is still starting"
            raise TransientError(
                "The model server does not start.",
                expected=f"a server that listens within {timeout_s:g} s",
                received=f"{ended}; its log ends with: {output.read_text(errors='replace')[-LOG_TAIL:]}",
                remedy="Read the server's log above; retry the task when the machine was busy.",
            )
        time.sleep(POLL_S)
    return json.loads(ready.read_text())


def await_loaded(server: CandidateServer, timeout_s: float) -> str:
    """Waits for the candidate; returns why it does not load, or nothing."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        known = server.rest.versions(CANDIDATE).get(VERSION)
        if known is not None and known.state == "AVAILABLE":
            return ""
        if known is not None and known.state == "END":
            return known.error
        time.sleep(POLL_S)
    return f"It was not loaded within {timeout_s:g} s."


def largest_resident_mb(pid: int) -> float:
    """The largest resident memory of a process so far, MiB; 0 if it has ended, which its answers tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)  # The kernel's kB are KiB.
    return int(peak[1]) / 1024 if peak else 0.0
