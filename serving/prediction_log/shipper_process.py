"""The shipper's process as the model server has it: started with the first job, started again when it dies."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from serving.prediction_log.shipper import Job

logger = logging.getLogger(__name__)

RESTART_S = 5.0
"""The process is started at most so often."""


class ShipperProcess:
    """The process; one thread alone uses it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = float("-inf")
        self._jobs: dict[Job, None] = {}
        self._rest = b""

    @property
    def pid(self) -> int | None:
        """The process's id, or None where it was not started."""
        return self._process.pid if self._process is not None else None

    def look(self, job: Job) -> None:
        """Has the process look after a job's journals now."""
        self._jobs[job] = None
        if self._process is None:
            self._start()
        else:
            self._send(job)

    def reports(self) -> list[dict[str, Any]]:
        """What the process has told since the last call; starts it again where it has died."""
        if self._process is None:
            return []
        reports = self._read()
        if self._process.poll() is not None and time.monotonic() - self._started_at > RESTART_S:
            logger.warning("The prediction log's shipper ended (status %d), another goes on", self._process.returncode)
            self._discard()
            self._start()
        return reports

    def close(self, wait_s: float) -> list[dict[str, Any]]:
        """Lets the process finish; answers its last reports."""
        if self._process is None:
            return []
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.close()
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            logger.warning("The prediction log's shipper goes on by itself: it is not done within %g s", wait_s)
        reports = self._read()
        self._discard()
        return reports

    def _start(self) -> None:
        self._started_at, self._rest = time.monotonic(), b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serving.prediction_log.shipper"],
            cwd=Path(__file__).resolve().parents[2],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None and self._process.stdout is not None, "they are pipes"
        for stream in (self._process.stdin, self._process.stdout):
            os.set_blocking(stream.fileno(), False)
        for job in self._jobs:
            self._send(job)

    def _send(self, job: Job) -> None:
        assert self._process is not None and self._process.stdin is not None, "it was started"
        # A busy process may not have read for long, or have died; it looks at everything by itself now and then.
        with contextlib.suppress(OSError):
            os.write(self._process.stdin.fileno(), job.line())

    def _read(self) -> list[dict[str, Any]]:
        assert self._process is not None and self._process.stdout is not None, "it was started"
        content = b""
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._process.stdout.fileno(), 1 << 16):
                content += part
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [json.loads(line) for line in lines]

    def _discard(self) -> None:
        assert self._process is not None, "it was started"
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
