"""What model server and router have in common: they listen for REST and gRPC, say so, and stop when they are told."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import grpc
import uvicorn

from airtight.errors import TerminalError, TransientError
from airtight.files import write_text
from serving import config_messages
from serving.connections import HttpServer, Limits, limited

logger = logging.getLogger(__name__)

SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
"""What gRPC health is told of: the whole, and each service."""
MAX_STREAMS = 256
"""gRPC calls at once on one connection; a client's further calls wait on its side."""


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Where and how to listen; the names are those of the flags.

    Args:
      host: Address to bind, loopback by default.
      port: gRPC port, 0 for any free one.
      rest_api_port: REST port, 0 for any free one.
      rest_api_timeout_s: A REST request that takes longer is answered with 504; over gRPC the client sets its deadline.
      max_request_bytes: Larger requests are refused.
      max_pending_bytes: Of all requests together, from arrival to answer; the router counts REST bodies alone.
      grpc_socket_path: A Unix socket on which gRPC listens, too; empty for none.
      ssl_config_file: SSLConfig with key and certificate of the gRPC port, in protobuf's text format, or None.
      rest_ssl_files: Key and certificate of the REST port, PEM files; empty without TLS.
      cors: Answers over REST tell browsers that pages from anywhere may read them.
      limits: What one HTTP connection may take, and how many there may be; that number holds for gRPC too.
      drain_s: After SIGTERM, running requests have so long to finish.
      ready_file: JSON with pid and real ports, written when it listens, or None.
      exit_with_stdin: Stop when standard input ends, so that the process does not outlive who started it.
    """

    who: ClassVar[str]

    host: str = "127.0.0.1"
    port: int = 8500
    rest_api_port: int = 8501
    rest_api_timeout_s: float = 30.0
    max_request_bytes: int = 256 << 20
    max_pending_bytes: int = 1 << 30
    grpc_socket_path: str = ""
    ssl_config_file: Path | None = None
    rest_ssl_files: tuple[Path, ...] = ()
    cors: bool = False
    limits: Limits = field(default_factory=Limits)
    drain_s: float = 15.0
    ready_file: Path | None = None
    exit_with_stdin: bool = False


def add_flags(parser: argparse.ArgumentParser, timeout_ms: int) -> None:
    """Adds the flags of `Listening` to a command line; `timeout_ms` is how long a REST request may take by default."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to bind")
    add("--port", type=int, default=8500, help="gRPC port, 0 for any free one")
    add("--rest_api_port", type=int, default=8501, help="REST port, 0 for any free one")
    add("--rest_api_timeout_in_ms", type=int, default=timeout_ms, help="longer REST requests are answered with 504")
    add("--max_request_bytes", type=int, default=256 << 20, help="larger requests are refused")
    add("--max_pending_bytes", type=int, default=1 << 30, help="of all requests together (router: REST bodies)")
    add("--grpc_socket_path", default="", help="a Unix socket on which gRPC listens, too")
    add("--ssl_config_file", type=Path, help="SSLConfig of the gRPC port, in protobuf's text format")
    add("--rest_ssl_files", type=Path, nargs=2, default=(), metavar=("KEY", "CERT"), help="PEM files of the REST port")
    add("--rest_api_enable_cors_support", **boolean("let pages of any origin read answers over REST"))
    add("--max_connections", type=int, default=1000, help="REST connections at once, and gRPC ones")
    add("--rest_header_timeout_in_ms", type=int, default=10_000, help="for a request's headers to arrive")
    add("--rest_body_timeout_in_ms", type=int, default=30_000, help="for its body, plus 1 s for each 16 KiB of it")
    add("--rest_write_timeout_in_ms", type=int, default=30_000, help="for an answer to be read, likewise")
    add("--drain_seconds", type=float, default=15.0, help="time for running requests after SIGTERM")
    add("--ready_file", type=Path, help="JSON with pid and ports, written when it listens")
    add("--exit_with_stdin", **boolean("stop when standard input ends, with the process that started this one"))


def from_flags(flags: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of `Listening`, by the names of its fields."""
    return {
        "host": flags.host,
        "port": flags.port,
        "rest_api_port": flags.rest_api_port,
        "rest_api_timeout_s": flags.rest_api_timeout_in_ms / 1e3,
        "max_request_bytes": flags.max_request_bytes,
        "max_pending_bytes": flags.max_pending_bytes,
        "grpc_socket_path": flags.grpc_socket_path,
        "ssl_config_file": flags.ssl_config_file,
        "rest_ssl_files": tuple(flags.rest_ssl_files),
        "cors": flags.rest_api_enable_cors_support,
        "limits": Limits(
            max_connections=flags.max_connections,
            header_s=flags.rest_header_timeout_in_ms / 1e3,
            body_s=flags.rest_body_timeout_in_ms / 1e3,
            write_s=flags.rest_write_timeout_in_ms / 1e3,
        ),
        "drain_s": flags.drain_seconds,
        "ready_file": flags.ready_file,
        "exit_with_stdin": flags.exit_with_stdin,
    }


def boolean(text: str, *, default: bool = False) -> dict[str, Any]:
    """A flag that is true or false, for `add_argument`: --flag, --flag=true, --flag=false, as TensorFlow Serving's."""
    return {"type": _truth, "nargs": "?", "const": True, "default": default, "help": text}


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"true or false, not {text!r}")
    return text.lower() in ("true", "1")


def told_to_stop(settings: Listening) -> asyncio.Event:
    """An event that SIGTERM, SIGINT or, where it is asked for, the end of standard input sets."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if settings.exit_with_stdin:
        loop.add_reader(0, _stop_at_end, loop, stopping)
    return stopping


def bound(settings: Listening) -> socket.socket:
    """The socket of the REST API.

    Raises:
      TransientError: The port is taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.rest_api_port))
    except OSError as error:
        listener.close()
        raise _taken(settings, "REST", settings.rest_api_port, error) from error
    return listener


async def start_http(
    app: Callable[..., Any], settings: Listening, listener: socket.socket
) -> tuple[HttpServer, asyncio.Task[None]]:
    """Serves an ASGI application; answers when it listens.

    Raises:
      TerminalError: Key and certificate of TLS cannot be used.

    Returns:
      The server, which stops in good order when its `should_exit` is set, and the task that it runs in.
    """
    key, certificate = settings.rest_ssl_files or (None, None)
    _check_pair(key, certificate)
    http = HttpServer(
        uvicorn.Config(
            app,
            ssl_keyfile=key,
            ssl_certfile=certificate,
            interface="asgi3",  # It would take a bound method for ASGI 2.
            http=limited(settings.limits),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,  # Nobody looks at whom a request comes from.
            timeout_keep_alive=round(settings.limits.keep_alive_s),
            timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        )
    )
    rest = asyncio.create_task(http.serve([listener]))
    while not http.started and not rest.done():
        await asyncio.sleep(0.005)
    return http, rest


def grpc_server(settings: Listening, *more: tuple[str, Any]) -> grpc.aio.Server:
    """A gRPC server with limits for each connection; `more` are further channel arguments."""
    return grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.max_allowed_incoming_connections", settings.limits.max_connections),
            # A connection that never says HTTP/2, and one whose client has gone without a word.
            ("grpc.server_handshake_timeout_ms", round(1e3 * settings.limits.header_s)),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            *more,
        ]
    )


async def start_grpc(server: grpc.aio.Server, settings: Listening) -> int:
    """Starts a gRPC server; answers its port.

    Raises:
      TerminalError: The file of `--ssl_config_file` cannot be used.
      TransientError: The port is taken.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host  # An IPv6 address has colons of its own.
    try:
        if settings.ssl_config_file is None:
            port = server.add_insecure_port(f"{host}:{settings.port}")
        else:
            port = server.add_secure_port(f"{host}:{settings.port}", _credentials(settings.ssl_config_file))
        if settings.grpc_socket_path:
            server.add_insecure_port(f"unix:{settings.grpc_socket_path}")
    except RuntimeError as error:
        raise _taken(settings, "gRPC", settings.port, error) from error
    await server.start()
    return port


def _check_pair(key: Path | None, certificate: Path | None) -> None:
    if key is None or certificate is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise TerminalError(
            "The files of --rest_ssl_files are not usable.",
            expected="a private key and its certificate, in PEM",
            received=f"{key} and {certificate}: {error}",
            remedy="Correct --rest_ssl_files.",
        ) from error


def _credentials(file: Path) -> grpc.ServerCredentials:
    config = config_messages.read(file, "SSLConfig", "ssl_config_file")
    if not config.server_key or not config.server_cert or (config.client_verify and not config.custom_ca):
        raise TerminalError(
            "The file of --ssl_config_file is not usable.",
            expected="server_key and server_cert in PEM, and custom_ca where client_verify is true",
            received=f"{file}, which lacks one of them",
            remedy="Correct the file.",
        )
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def say_ready(settings: Listening, grpc_port: int, rest_port: int, **ports: int) -> None:
    """Logs the listening addresses and writes them to the ready file; `ports` are further ones, by name."""
    host = settings.host
    logger.info(
        "The %s listens for gRPC on %s:%d and for REST on %s:%d", settings.who, host, grpc_port, host, rest_port
    )
    for name, port in ports.items():
        logger.info("The %s has its %s at %d", settings.who, name, port)
    if settings.ready_file is not None:
        ready = {"pid": os.getpid(), "host": settings.host, "port": grpc_port, "rest_api_port": rest_port, **ports}
        write_text(settings.ready_file, json.dumps(ready))


def _stop_at_end(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    if not os.read(0, 4096):
        loop.remove_reader(0)
        stopping.set()


def _taken(settings: Listening, what: str, port: int, error: Exception) -> TransientError:
    return TransientError(
        f"The {settings.who} cannot listen for {what}.",
        expected=f"port {port} to be free",
        received=str(error),
        remedy="Stop what listens there, or choose another port (0 for any free one).",
    )
