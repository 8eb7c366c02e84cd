"""Settings of the router, from its flags."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from airtight.declared_pipelines import online_routes
from airtight.errors import TerminalError
from serving import listening
from serving.listening import Listening

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_.-]+")


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
class Online:
    """A route whose features a pipeline's code fills in.

    Args:
      name: `POST /v1/NAME:predict`.
      model: The model that answers.
      code: `package.module:attribute`, of a `serving.router.online.Lookup` when it is called.
      is_declared: Whether a pipeline's settings declare it, so that it is left out where its code cannot be loaded.
    """

    name: str
    model: str
    code: str
    is_declared: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings(Listening):
    """All settings of one router, beside where it listens; the names are those of the flags.

    Args:
      models_root: Where `releases.json` and `models.config` lie.
      servers: The model servers.
      admin_host: Address of the administration.
      admin_port: Its REST port, for status, metrics and page; 0 for any free one.
      admin_grpc_port: Its gRPC port, for HandleReloadConfigRequest; None opens none, 0 any free one.
      health_interval_s: Between two looks at each server's health.
      state_file: Where the counts of releases under way outlive the router, or None.
      online: Routes whose features are filled in.
    """

    who = "router"

    models_root: Path
    servers: tuple[Address, ...]
    admin_host: str = "127.0.0.1"
    admin_port: int = 8502
    admin_grpc_port: int | None = None
    health_interval_s: float = 1.0
    state_file: Path | None = None
    online: tuple[Online, ...] = ()


def settings_from_flags(arguments: Sequence[str]) -> Settings:
    """Reads the command line.

    Raises:
      TerminalError: A server's address that is none, or one named twice; or so an online route.
    """
    flags = _parser().parse_args(arguments)
    servers = tuple(address(text) for text in flags.server)
    if len({server.rest for server in servers}) != len(servers) or len({s.grpc for s in servers}) != len(servers):
        raise _refusal("the same address twice")
    return Settings(
        **listening.from_flags(flags),
        models_root=flags.models_root,
        servers=servers,
        admin_host=flags.admin_host,
        admin_port=flags.admin_port,
        admin_grpc_port=flags.admin_grpc_port,
        health_interval_s=flags.health_interval_seconds,
        state_file=flags.state_file,
        online=_with_declared(_online(flags.online)) if flags.pipelines else _online(flags.online),
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


def _online(texts: Sequence[str]) -> tuple[Online, ...]:
    parts = [text.split("=") for text in texts]
    routes = {part[0] for part in parts}
    if not all(len(part) == 3 and all(part) and _NAME.fullmatch(part[0]) for part in parts) or len(routes) < len(parts):  # noqa: PLR2004
        raise TerminalError(
            "The router does not know what to fill in online.",
            expected="--online NAME=MODEL=MODULE:ATTRIBUTE for each route, and each NAME once",
            received=" ".join(texts),
            remedy="Correct --online.",
        )
    return tuple(Online(name, model, code) for name, model, code in parts)


def _with_declared(routes: Sequence[Online]) -> tuple[Online, ...]:
    """Some routes, and after them those of the pipelines' settings whose names are not taken yet."""
    by_name = {route.name: route for route in routes}
    for name, model, code in online_routes():
        taken = by_name.setdefault(name, route := Online(name, model, code, is_declared=True))
        if taken is not route:
            log.warning("The route %s of %s is left out: %s has it already", name, model, taken.model)
    return tuple(by_name.values())


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
    listening.add_flags(parser, timeout_ms=120_000)
    add("--models_root", type=Path, required=True, help="folder with releases.json and models.config")
    add("--server", action="append", required=True, metavar="REST_URL=GRPC_ADDR", help="a model server; repeatable")
    add("--admin_host", default="127.0.0.1", help="address to bind for the administration")
    add("--admin_port", type=int, default=8502, help="REST port of status, metrics and page, 0 for any free one")
    add("--admin_grpc_port", type=int, help="gRPC port of HandleReloadConfigRequest, 0 for any free one; none without")
    add("--health_interval_seconds", type=float, default=1.0, help="between two looks at each server's health")
    add(
        "--online",
        action="append",
        default=[],
        metavar="NAME=MODEL=MODULE:ATTRIBUTE",
        help="POST /v1/NAME:predict asks MODEL with the features that the code fills in; repeatable",
    )
    add("--pipelines", action="store_true", help="also the routes that the settings of pipelines/ declare (online)")
    add("--state_file", type=Path, help="keeps the counts of releases under way across a restart")
    return parser
