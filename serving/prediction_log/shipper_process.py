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
        """The process's reports since the last call; starts it again where it has died or could not be started."""
        reports: list[dict[str, Any]] = []
        if self._process is not None:
            status = self._process.poll()
            reports = self._read()
            if status is not None:
                logger.warning("The prediction log's shipper ended (status %d), another follows", status)
                self._discard()
        if self._process is None and self._jobs:
            self._start()
        return reports

    def close(self, wait_s: float) -> list[dict[str, Any]]:
        """Lets the process finish; answers its last reports."""
        if self._process is None:
            return []
        try:
            # Reads until the process ends, which cannot write more reports than a pipe holds otherwise.
            content, _ = self._process.communicate(timeout=wait_s)
        except subprocess.TimeoutExpired as error:
            logger.warning("The prediction log's shipper goes on by itself: it is not done within %g s", wait_s)
            content = error.output or b""
        reports = self._parse(content)
        self._discard()
        return reports

    def _start(self) -> None:
        """Starts the process, unless the last try is less than `RESTART_S` ago."""
        if time.monotonic() - self._started_at <= RESTART_S:
            return
        self._started_at, self._rest = time.monotonic(), b""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "serving.prediction_log.shipper"],
                cwd=Path(__file__).resolve().parents[2],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        except OSError as error:  # Memory or process ids are short. Journals are written all the same, and wait.
            logger.warning("The prediction log's shipper cannot be started now: %s", error)
            return
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
        return self._parse(content)

    def _parse(self, content: bytes) -> list[dict[str, Any]]:
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [json.loads(line) for line in lines]

    def _discard(self) -> None:
        assert self._process is not None, "it was started"
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process = None
