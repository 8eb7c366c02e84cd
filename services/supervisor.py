"""Starts and stops the local services: one supervisord, which restarts what dies (services/supervisord.conf)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import importlib.metadata
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

from airtight.errors import TerminalError, TransientError
from airtight.files import write_text
from airtight.home import ROOT, Home
from services import processes
from services.environment import environment
from services.settings import HOST, Settings
from services.state_folder import prepare, renew_short_keys

CONFIGURATION = ROOT / "services" / "supervisord.conf"
PORTS = {
    "spark": ("spark_port",),
    "model-server": ("server_grpc_port", "server_rest_port"),
    "router": ("model_grpc_port", "model_rest_port", "router_admin_port"),
    "api-server": ("airflow_port",),
    "execution-api": ("execution_port",),
    "kafka": ("kafka_port", "kafka_controller_port"),
    "flink-jobmanager": ("flink_rest_port", "flink_rpc_port", "flink_blob_port"),
    "flink-job-server": ("flink_job_port", "flink_artifact_port", "flink_expansion_port"),
    "beam-workers": ("beam_workers_port",),
}
"""The settings whose ports a program opens."""
AIRFLOW = ("api-server", "execution-api", "scheduler", "dag-processor", "triggerer")
ALWAYS = ("launcher", "spark", "model-server", "router", *AIRFLOW)
"""What is started when nothing is named, in the order in which it is started: the slowest to wake up first."""
TASKMANAGERS = ("flink-taskmanager", "flink-taskmanager-2")
FLINK = ("flink-jobmanager", *TASKMANAGERS, "flink-job-server", "beam-workers")
"""The Flink cluster: what `flink` stands for, less the TaskManagers that are not wanted."""
ON_DEMAND = ("kafka", *FLINK)
"""What is started only by name: whoever works in batch needs no broker."""
PROGRAMS = (*ON_DEMAND, *ALWAYS)
"""The programs of supervisord.conf."""
ENDED = ("STOPPED", "EXITED", "FATAL")
"""States of a program that nobody starts again by itself."""
START_S = 15.0
STOP_S = 60.0
LONGEST_SOCKET = 90
"""Linux allows 107 bytes for a socket's path; supervisord binds a temporary name beside it first."""


@dataclass(frozen=True)
class Program:
    """One program as supervisord sees it.

    Args:
      name: As in supervisord.conf.
      state: RUNNING, STARTING, BACKOFF, STOPPED, EXITED, FATAL...
      pid: Process id, 0 when it does not run.
      seconds: How long it has been up.
      description: supervisord's own words.
    """

    name: str
    state: str
    pid: int
    seconds: int
    description: str


def expand(names: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """The programs that some names stand for: `flink` is the Flink cluster.

    Raises:
      TerminalError: Another number of TaskManagers is wanted than one or two.
    """
    if not 0 < settings.flink_taskmanagers <= len(TASKMANAGERS):
        raise TerminalError(
            "This machine starts one TaskManager or two.",
            expected=f"a number from 1 to {len(TASKMANAGERS)}",
            received=settings.flink_taskmanagers,
            remedy="Correct AIRTIGHT_FLINK_TASKMANAGERS; more slots in each are AIRTIGHT_FLINK_SLOTS.",
        )
    unwanted = TASKMANAGERS[settings.flink_taskmanagers :]
    cluster = tuple(name for name in FLINK if name not in unwanted)
    return tuple(dict.fromkeys(p for name in names for p in (cluster if name == "flink" else (name,))))


class Supervisor:
    """The supervisord of one state folder.

    Args:
      home: The state folder.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.socket = home.run / "supervisor.sock"

    def running(self) -> bool:
        """Whether a supervisord answers at the socket."""
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
            return True
        except OSError:
            return False

    def programs(self) -> list[Program]:
        """Every program and its state; empty when no supervisord runs, or it is about to end."""
        processes: list[dict[str, Any]] = []
        with self._rpc_while_it_lasts() as rpc:
            processes = rpc.supervisor.getAllProcessInfo()
        return sorted(
            (
                Program(p["name"], p["statename"], p["pid"], p["now"] - p["start"] if p["pid"] else 0, p["description"])
                for p in processes
            ),
            key=lambda program: PROGRAMS.index(program.name),
        )

    def start(self, settings: Settings, names: Sequence[str] = ALWAYS) -> list[str]:
        """Starts supervisord where it does not run, and those of the named programs that do not.

        Args:
          settings: Ports and sizes; ignored by a supervisord that runs already.
          names: Programs to start; `flink` is the Flink cluster.

        Returns:
          Names of the programs that were started now.

        Raises:
          TerminalError: A port is taken, or Airflow's database cannot be made.
          TransientError: supervisord does not come up.
        """
        self._check_socket()
        prepare(self.home)
        with self._alone():
            if self.running() and not self.programs():
                self._await_end()
            running = self.running()
            if running:
                settings = Settings.of_running(self.home)
                stopped = {p.name for p in self.programs() if p.state in ENDED}
            else:
                processes.end_all(self.home)
                renew_short_keys(self.home)
                stopped = set(PROGRAMS)
            wanted = expand(names, settings)
            started = [name for name in PROGRAMS if name in wanted and name in stopped]
            _check_ports(settings, started)
            if not running:
                self._spawn(settings)
                settings.save(self.home)
            with self._rpc() as rpc:
                # Those that need no database wake up while it is made.
                for name in sorted(started, key=lambda each: each in AIRFLOW):
                    if name in AIRFLOW:
                        _migrate(settings, self.home)
                    rpc.supervisor.startProcess(name, False)
        return started

    def end(self, names: Sequence[str]) -> list[str]:
        """Ends some programs, and waits until each has ended; what does not run is left alone.

        Args:
          names: Programs of supervisord.conf; `flink` is the Flink cluster.

        Returns:
          Names of the programs that were ended now.
        """
        if not self.home.run.is_dir():
            return []
        with self._alone():
            unwanted = {*names, *(FLINK if "flink" in names else ())}
            running = [p.name for p in self.programs() if p.name in unwanted and p.state not in ENDED]
            with self._rpc_while_it_lasts() as rpc:
                for name in running:
                    # A program that ends by itself at this moment is none that runs: no fault.
                    with contextlib.suppress(xmlrpc.client.Fault):
                        rpc.supervisor.stopProcess(name, True)
        return running

    def stop(self) -> int:
        """Ends supervisord, the programs, and whatever they left behind.

        Returns:
          How many processes were ended.
        """
        if not self.home.run.is_dir():
            return 0
        with self._alone():
            before = processes.alive(self.home)
            with self._rpc_while_it_lasts() as rpc:
                rpc.supervisor.shutdown()
            self._await_end()
            return max(len(before), processes.end_all(self.home))

    def log_tail(self, name: str, lines: int = 20) -> str:
        """The last lines of a program's log."""
        log = self.home.logs / f"{name}.log"
        if not log.is_file():
            return f"(no log yet at {log})"
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    @contextlib.contextmanager
    def _rpc(self) -> Iterator[Any]:
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        # The host is not used: the transport speaks over the socket.
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            yield proxy

    @contextlib.contextmanager
    def _rpc_while_it_lasts(self) -> Iterator[Any]:
        """As `_rpc`, but a supervisord that is away or ends ends the block, and is no fault."""
        try:
            with self._rpc() as rpc:
                yield rpc
        except (FileNotFoundError, ConnectionError, http.client.HTTPException):
            return
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.SHUTDOWN_STATE:
                raise

    def _await_end(self) -> None:
        deadline = time.monotonic() + STOP_S
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.1)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One start or stop after the other: two starts would start two supervisors, a stop would end half a start."""
        with (self.home.run / "start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _check_socket(self) -> None:
        if len(str(self.socket).encode()) > LONGEST_SOCKET:
            raise TerminalError(
                "The state folder's path is too long for a unix socket.",
                expected=f"a path of at most {LONGEST_SOCKET - len('/run/supervisor.sock')} bytes",
                received=str(self.home.path),
                remedy="Set AIRTIGHT_HOME to a shorter path.",
            )

    def _spawn(self, settings: Settings) -> None:
        started = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(CONFIGURATION)],
            env=environment(settings, self.home),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        deadline = time.monotonic() + START_S
        while started.returncode == 0 and not self.running() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not self.running():
            raise TransientError(
                "The supervisor did not start.",
                expected=f"a supervisord that answers at {self.socket} within {START_S:g} s",
                received=(started.stderr or started.stdout or "no word from it").strip(),
                remedy=f"See {self.home.logs / 'supervisord.log'}.",
            )


def _check_ports(settings: Settings, names: Sequence[str]) -> None:
    for setting in (setting for name in names for setting in PORTS.get(name, ())):
        port = settings.ports[setting]
        with socket.socket() as probe:
            # As servers do: a port that a connection of before still lingers on is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise TerminalError(
                    f"Port {port} of {HOST} is taken by another program.",
                    expected=f"a free port for the setting {setting}",
                    received=error.strerror,
                    remedy=f"Stop that program, or choose another port: AIRTIGHT_{setting.upper()}=... make start.",
                ) from error


def _migrate(settings: Settings, home: Home) -> None:
    """Makes or upgrades Airflow's database, once for each version and database: it takes ten seconds."""
    done = home.path / "airflow" / "migrated"
    version = importlib.metadata.version("apache-airflow")
    migrated = f"{version} {hashlib.sha256(settings.airflow_database.encode()).hexdigest()}"
    if done.is_file() and done.read_text(encoding="utf-8") == migrated:
        return
    log = home.logs / "airflow-migrate.log"
    with log.open("w", encoding="utf-8") as file:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        code = subprocess.call(command, env=environment(settings, home), cwd=ROOT, stdout=file, stderr=file)
    if code:
        raise TerminalError(
            "Airflow's database could not be made.",
            expected="exit status 0 of airflow db migrate",
            received=log.read_text(encoding="utf-8").strip()[-500:],
            remedy=f"See {log}; AIRTIGHT_AIRFLOW_DATABASE names another database.",
        )
    write_text(done, migrated)
