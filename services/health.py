"""Waits until each service is well, and tells a person what it waits for."""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from airtight.errors import TransientError
from airtight.home import Home
from runtime.protocol import is_served, load_of
from services.settings import HOST, Settings
from services.supervisor import AIRFLOW, Supervisor, expand

POLL_S = 0.25
TELL_EVERY_S = 10.0
PROBE_S = 2.0
MAX_LIVES = 2
"""A program that had to be started more often than this while it was waited for will not heal."""
TIMEOUT_S = 600.0
"""For all services together. Two idle cores need 40 s, busy ones minutes; what died is told at once anyway."""


@dataclass(frozen=True)
class Service:
    """One thing that people use, and the programs behind it.

    Args:
      name: For people.
      programs: Programs of supervisord.conf that must run.
      address: Where it listens.
      missing: What is not there yet, in words; empty when it is well.
      starts: The name that starts its programs; empty for that of its one program.
    """

    name: str
    programs: tuple[str, ...]
    address: str
    missing: Callable[[], str]
    starts: str = ""


def services(settings: Settings, home: Home) -> tuple[Service, ...]:
    """Every service, with the way to ask whether it is well."""
    spark = f"{HOST}:{settings.spark_port}"
    return (
        Service("launcher", ("launcher",), str(home.launcher_socket), lambda: _unix(str(home.launcher_socket))),
        Service("Spark", ("spark",), spark, lambda: _tcp(settings.spark_port)),
        Service(
            "model server", ("model-server",), settings.server_url, lambda: _http(f"{settings.server_url}/v1/models/-")
        ),
        Service("router", ("router",), settings.model_url, lambda: _http(f"{settings.router_url}/router/status")),
        Service("Kafka", ("kafka",), settings.own_kafka, lambda: _tcp(settings.kafka_port)),
        Service(
            "Flink", expand(("flink",), settings), settings.flink_rest, functools.partial(_flink, settings), "flink"
        ),
        Service("Airflow", AIRFLOW, settings.airflow_url, lambda: _airflow(settings)),
    )


def wait(
    supervisor: Supervisor, chosen: Sequence[Service], tell: Callable[[str], None], timeout_s: float = TIMEOUT_S
) -> None:
    """Returns when every service is well.

    Args:
      supervisor: Who runs them.
      chosen: The services to wait for.
      tell: Receives each line of progress.
      timeout_s: For all of them together.

    Raises:
      TransientError: One gave up or was too slow; the end of its log is in the message.
    """
    start = told_at = time.monotonic()
    waiting = {service.name: service for service in chosen}
    lives: dict[str, set[int]] = {}
    while waiting:
        states = {program.name: program for program in supervisor.programs()}
        for program in states.values():
            lives.setdefault(program.name, set()).update({program.pid} - {0})
        for service in list(waiting.values()):
            for name in service.programs:
                if states and name not in states:
                    raise _failure(supervisor, service, name, "the supervisor is older than it; stop it: make stop")
                if name not in states or states[name].state in ("FATAL", "STOPPED") or len(lives[name]) > MAX_LIVES:
                    raise _failure(supervisor, service, name, f"{name} keeps ending by itself")
            if all(states[p].state == "RUNNING" for p in service.programs) and not service.missing():
                tell(f"  {service.name} is up at {service.address} ({time.monotonic() - start:.0f} s)")
                del waiting[service.name]
        now = time.monotonic()
        if waiting and now - start > timeout_s:
            late = next(iter(waiting.values()))
            raise _failure(supervisor, late, late.programs[0], f"not well after {timeout_s:.0f} s: {late.missing()}")
        if waiting and now - told_at > TELL_EVERY_S:
            told_at = now
            tell(f"  waiting for {', '.join(waiting)} ({now - start:.0f} s)")
        time.sleep(POLL_S if waiting else 0)


def _failure(supervisor: Supervisor, service: Service, program: str, why: str) -> TransientError:
    log = supervisor.home.logs / f"{program}.log"
    return TransientError(
        f"{service.name} did not come up: {why}.\n--- the end of {log}\n{supervisor.log_tail(program)}\n---",
        expected=f"{service.name} at {service.address}",
        received=service.missing() or f"{program} that does not stay up",
        remedy="Correct what the log tells and start again: make start.",
    )


def launcher_load(home: Home) -> str:
    """Says how many requests a launcher that is well runs and has ended; one that was killed leaves its numbers behind.

    It is not asked for them, because it would count that as a request.
    """
    load = load_of(home.launcher_socket)
    return f"{load['running']} run, {load['ended']} ended, {load['died']} of them died" if load else ""


def _unix(path: str) -> str:
    return "" if is_served(Path(path)) else "its socket is not open yet"


def _tcp(port: int) -> str:
    try:
        socket.create_connection((HOST, port), PROBE_S).close()
        return ""
    except OSError:
        return f"port {port} is not open yet"


def _http(url: str) -> str:
    """Any answer will do, also that there is no such model."""
    try:
        httpx.get(url, timeout=PROBE_S)
        return ""
    except httpx.TransportError:
        return "it does not answer yet"


def _flink(settings: Settings) -> str:
    """The cluster is well when its TaskManagers are registered and a job can be submitted."""
    for port in (settings.flink_job_port, settings.flink_expansion_port, settings.beam_workers_port):
        if missing := _tcp(port):
            return missing
    try:
        answer = httpx.get(f"{settings.flink_rest}/overview", timeout=PROBE_S)
        answer.raise_for_status()
    except httpx.HTTPError:
        return "its REST API does not answer yet"
    registered = answer.json()["taskmanagers"]
    wanted = settings.flink_taskmanagers
    return "" if registered >= wanted else f"{registered} of {wanted} TaskManagers are registered"


def _airflow(settings: Settings) -> str:
    if missing := _http(settings.execution_url):
        return f"the API for tasks: {missing}"
    try:
        answer = httpx.get(f"{settings.airflow_url}/api/v2/monitor/health", timeout=PROBE_S)
        answer.raise_for_status()
    except httpx.HTTPError:
        return "the API does not answer yet"
    parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
    ill = [part for part in parts if answer.json()[part]["status"] != "healthy"]
    return f"no heartbeat yet from the {', '.join(ill)}" if ill else ""
