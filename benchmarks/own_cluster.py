"""A broker and a Flink session cluster with a state folder and ports of their own, and what kills and measures them.

For measurements and for tests: all of it is gone afterwards.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from airtight.home import Home
from benchmarks.own_services import free_settings
from services import health, processes
from services.__main__ import up
from services.environment import environment
from services.settings import Settings, variable
from services.supervisor import Supervisor
from streaming.engine import flink_jobs

SUBMIT_S = 600.0
"""A machine that does much else starts a job slowly."""
KEPT = ("AIRTIGHT_ROOT", "AIRTIGHT_IVY_SETTINGS")
"""Settings of the caller that also hold for the cluster."""
FORKED, POOL = "multiprocessing.forkserver", "streaming.engine.worker_pool"
"""What stands in the command lines of a Python worker and of who forks it, and in that of the pool."""


@dataclass(frozen=True)
class OwnCluster:
    """A broker and a Flink cluster that run.

    Args:
      home: Their state folder.
      settings: Their ports and sizes.
    """

    home: Home
    settings: Settings

    @property
    def servers(self) -> str:
        """The broker, host:port."""
        return self.settings.kafka_servers

    @property
    def addresses(self) -> dict[str, str]:
        """Environment variables by which the code finds the broker and the cluster."""
        values = environment(self.settings, self.home)
        return {name: value for name, value in values.items() if name.startswith("AIRTIGHT_")}

    def pid(self, program: str) -> int:
        """Process id of one of the supervisor's programs; 0 while it does not run."""
        return next(one.pid for one in Supervisor(self.home).programs() if one.name == program)

    def workers(self) -> list[psutil.Process]:
        """The Python workers, also those whose pool was killed."""
        running = []
        for pid in processes.alive(self.home):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                parent = process.parent()
                # The process that forks them is the pool's child.
                if _has(process, FORKED) and not (parent and _has(parent, POOL)):
                    running.append(process)
        return running

    def kill(self, program: str) -> bool:
        """Kills one of the supervisor's programs, which starts it again; False while it does not run."""
        pid = self.pid(program)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pid)

    def is_well(self) -> bool:
        """Whether the broker answers, the TaskManagers are registered, and a job can be submitted."""
        return not any(s.missing() for s in health.services(self.settings, self.home) if s.name in ("Kafka", "Flink"))


def _has(process: psutil.Process, words: str) -> bool:
    return any(words in part for part in process.cmdline())


@contextlib.contextmanager
def own_cluster(taskmanagers: int = 1, slots: int = 1, **sizes: str) -> Iterator[OwnCluster]:
    """Starts a broker and a cluster; until the end, the environment of this process names them.

    Args:
      taskmanagers: 1 or 2.
      slots: Of each TaskManager.
      **sizes: Further settings of the services, such as `flink_taskmanager_memory`.
    """
    with contextlib.suppress(ValueError):  # Of another thread than the main one.
        # Whoever is told to end leaves nothing behind.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A short path, because that of a unix socket is limited.
    folder = Path(tempfile.mkdtemp(prefix="airtight-", dir="/tmp"))
    home = Home(folder)
    wanted = free_settings() | {"flink_taskmanagers": taskmanagers, "flink_slots": slots} | sizes
    try:
        with _environment({"AIRTIGHT_HOME": str(folder), **{variable(k): str(v) for k, v in wanted.items()}}):
            cluster = OwnCluster(home, up(home, ("kafka", "flink")))
            flink_jobs.SUBMIT_S = SUBMIT_S
            with _environment(cluster.addresses):
                yield cluster
    finally:
        Supervisor(home).stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Our variables of the environment are these and no others."""
    before = {name: value for name, value in os.environ.items() if name.startswith("AIRTIGHT_")}
    for name in before:
        if name not in KEPT:
            del os.environ[name]
    os.environ.update(values)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("AIRTIGHT_")]:
            del os.environ[name]
        os.environ.update(before)
