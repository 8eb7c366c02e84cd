"""Settings of the router, from its flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from airtight.errors import TerminalError
from serving.connections import Limits


@dataclass(frozen=True)
class Address:
    """Where one model server listens.

    Args:
      rest: Its REST API, such as http://127.0.0.1:8511.
      grpc: Its gRPC API, such as 127.0.0.1:8510.
    """

    rest: str
    grpc: str


@dataclass(frozen=True)
class Settings:
    """All settings of one router; the names are those of the flags.

    Args:
      models_root: Where `releases.json` and `models.config` lie.
      servers: The model servers.
      host: Address to bind, loopback by default.
      port: gRPC port, 0 for any free one.
      rest_api_port: REST port, 0 for any free one.
      health_interval_s: Between two looks at each server's health.
      rest_api_timeout_s: A REST request that a server does not answer in this time is answered with 504; over gRPC the
        client sets its deadline.
      max_request_bytes: Larger requests are refused.
      max_pending_bytes: REST bodies of all requests together, from their arrival to their answer.
      limits: What one HTTP connection may take, and how many there may be; that number holds for gRPC too.
      drain_s: After SIGTERM, running requests have so long to finish.
      ready_file: JSON with pid and real ports, written when the router listens, or None.
      state_file: Where the counts of releases under way outlive the router, or None.
      exit_with_stdin: Stop when standard input ends, so that the router does not outlive who started it.
    """

    models_root: Path
    servers: tuple[Address, ...]
    host: str = "127.0.0.1"
    port: int = 8500
    rest_api_port: int = 8501
    health_interval_s: float = 1.0
    rest_api_timeout_s: float = 120.0
    max_request_bytes: int = 256 << 20
    max_pending_bytes: int = 1 << 30
    limits: Limits = field(default_factory=Limits)
    drain_s: float = 15.0
    ready_file: Path | None = None
    state_file: Path | None = None
    exit_with_stdin: bool = False


def settings_from_flags(arguments: Sequence[str]) -> Settings:
    """Reads the command line.

    Raises:
      TerminalError: A server's address that is none, or one named twice.
    """
    flags = _parser().parse_args(arguments)
    servers = tuple(address(text) for text in flags.server)
    if len({server.rest for server in servers}) != len(servers) or len({s.grpc for s in servers}) != len(servers):
        raise _refusal("the same address twice")
    return Settings(
        models_root=flags.models_root,
        servers=servers,
        host=flags.host,
        port=flags.port,
        rest_api_port=flags.rest_api_port,
        health_interval_s=flags.health_interval_seconds,
        rest_api_timeout_s=flags.rest_api_timeout_in_ms / 1e3,
        max_request_bytes=flags.max_request_bytes,
        max_pending_bytes=flags.max_pending_bytes,
        limits=Limits(
            max_connections=flags.max_connections,
            header_s=flags.rest_header_timeout_in_ms / 1e3,
            body_s=flags.rest_body_timeout_in_ms / 1e3,
            write_s=flags.rest_write_timeout_in_ms / 1e3,
        ),
        drain_s=flags.drain_seconds,
        ready_file=flags.ready_file,
        state_file=flags.state_file,
        exit_with_stdin=flags.exit_with_stdin,
    )


def address(text: str) -> Address:
    """Reads REST_URL=GRPC_ADDR; a comma does as well, where "=" has a meaning of its own.

    Raises:
      TerminalError: It is not of that form.
    """
    rest, _, grpc = text.strip().replace(",", "=").rpartition("=")
    rest = rest.rstrip("/")
    try:
        parts = urlsplit(rest)
        sound = parts.scheme == "http" and parts.hostname and parts.port and not (parts.path or parts.query)
    except ValueError:
        sound = False
    host, colon, port = grpc.rpartition(":")
    if not sound or not host or not colon or not port.isdecimal():
        raise _refusal(repr(text))
    return Address(rest, grpc)


def _refusal(received: str) -> TerminalError:
    return TerminalError(
        "The router does not know its servers.",
        expected="--server REST_URL=GRPC_ADDR for each, such as --server http://127.0.0.1:8511=127.0.0.1:8510",
        received=received,
        remedy="Correct --server.",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m serving.router", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--models_root", type=Path, required=True, help="folder with releases.json and models.config")
    add("--server", action="append", required=True, metavar="REST_URL=GRPC_ADDR", help="a model server; repeatable")
    add("--host", default="127.0.0.1", help="address to bind")
    add("--port", type=int, default=8500, help="gRPC port, 0 for any free one")
    add("--rest_api_port", type=int, default=8501, help="REST port, 0 for any free one")
    add("--health_interval_seconds", type=float, default=1.0, help="between two looks at each server's health")
    add("--rest_api_timeout_in_ms", type=int, default=120_000, help="longer REST requests are answered with 504")
    add("--max_request_bytes", type=int, default=256 << 20, help="larger requests are refused")
    add("--max_pending_bytes", type=int, default=1 << 30, help="REST bodies of all requests together")
    add("--max_connections", type=int, default=1000, help="REST connections at once, and gRPC ones")
    add("--rest_header_timeout_in_ms", type=int, default=10_000, help="for a request's headers to arrive")
    add("--rest_body_timeout_in_ms", type=int, default=30_000, help="for its body, plus 1 s for each 16 KiB of it")
    add("--rest_write_timeout_in_ms", type=int, default=30_000, help="for an answer to be read, likewise")
    add("--drain_seconds", type=float, default=15.0, help="time for running requests after SIGTERM")
    add("--ready_file", type=Path, help="JSON with pid and ports, written when the router listens")
    add("--state_file", type=Path, help="keeps the counts of releases under way across a restart")
    add("--exit_with_stdin", action="store_true", help="stop when standard input ends")
    return parser
