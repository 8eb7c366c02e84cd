"""Puts the router's parts together: listens, says so, and on SIGTERM lets running requests finish."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import warnings

import grpc
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from airtight.errors import TransientError
from airtight.files import write_text
from serving.connections import HttpServer, limited
from serving.router.backends import Pool
from serving.router.catalogue import Catalogue
from serving.router.config import Settings
from serving.router.follower import Follower
from serving.router.grpc_proxy import GrpcRouter
from serving.router.rest import RestRouter
from serving.router.trials import Trials

logger = logging.getLogger(__name__)

_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
MAX_STREAMS = 256
"""gRPC calls at once on one connection; a client's further calls wait on its side."""
_Status = health_pb2.HealthCheckResponse


class _Health:
    """The router's own gRPC health: it serves while some server does."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()
        self._told: bool | None = None
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    def changed(self, well: bool) -> None:
        """Takes over whether some server is well."""
        if well == self._told or self._stopping:
            return
        self._told = well
        task = asyncio.get_running_loop().create_task(self._set(_Status.SERVING if well else _Status.NOT_SERVING))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Says for good that no more requests are taken."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._set(_Status.NOT_SERVING)

    async def _set(self, status: int) -> None:
        for service in _SERVICES:
            await self.servicer.set(service, status)


async def route(settings: Settings) -> None:
    """Routes until SIGTERM or SIGINT.

    Raises:
      TransientError: A port is taken.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if settings.exit_with_stdin:
        loop.add_reader(0, _stop_at_end, loop, stopping)
    _allow_many_sockets()
    warnings.filterwarnings("ignore", category=ResourceWarning, module="aiohttp")  # Bodies are in memory as a whole.
    rest_socket = _bound(settings)
    own_health = _Health()
    pool = Pool(settings, own_health.changed)
    try:
        await _route(settings, stopping, rest_socket, pool, own_health)
    finally:
        await pool.close()


async def _route(
    settings: Settings, stopping: asyncio.Event, rest_socket: socket.socket, pool: Pool, own_health: _Health
) -> None:
    trials = Trials(settings.state_file)
    follower = Follower(settings.models_root, trials.follow)
    follower.look()
    await pool.look()
    grpc_server, grpc_port = await _start_grpc(settings, pool, trials, own_health)
    http = HttpServer(
        uvicorn.Config(
            RestRouter(settings, pool, trials, Catalogue(settings.models_root, pool), lambda: follower.error),
            http=limited(settings.limits),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=round(settings.limits.keep_alive_s),
            timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        )
    )
    rest = asyncio.create_task(http.serve([rest_socket]))
    while not http.started and not rest.done():
        await asyncio.sleep(0.005)
    _say_ready(settings, grpc_port, rest_socket.getsockname()[1])
    running = [asyncio.create_task(part.run()) for part in (pool, follower, trials)]
    await asyncio.wait([asyncio.create_task(stopping.wait()), rest, *running], return_when=asyncio.FIRST_COMPLETED)
    logger.info("Stopping: no new requests are taken, running ones have %g s", settings.drain_s)
    await own_health.stop()
    http.should_exit = True
    await asyncio.gather(rest, grpc_server.stop(settings.drain_s))
    for task in running:
        task.cancel()
    ended = await asyncio.gather(*running, return_exceptions=True)
    await trials.close()
    for failed in ended:
        if isinstance(failed, Exception):
            raise failed


async def _start_grpc(
    settings: Settings, pool: Pool, trials: Trials, own_health: _Health
) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.max_allowed_incoming_connections", settings.limits.max_connections),
            ("grpc.server_handshake_timeout_ms", round(1e3 * settings.limits.header_s)),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
        ]
    )
    server.add_generic_rpc_handlers((GrpcRouter(pool, trials),))
    health_pb2_grpc.add_HealthServicer_to_server(own_health.servicer, server)
    try:
        port = server.add_insecure_port(f"{settings.host}:{settings.port}")
    except RuntimeError as error:
        raise _taken("gRPC", settings.port, error) from error
    await server.start()
    return server, port


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.rest_api_port))
    except OSError as error:
        listener.close()
        raise _taken("REST", settings.rest_api_port, error) from error
    return listener


def _allow_many_sockets() -> None:
    """Each client and each request under way is a socket, and a shell's limit may be 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536) if hard > 0 else 65536), hard))


def _stop_at_end(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    if not os.read(0, 4096):
        loop.remove_reader(0)
        stopping.set()


def _say_ready(settings: Settings, grpc_port: int, rest_port: int) -> None:
    logger.info("Routing gRPC on %s:%d and REST on %s:%d", settings.host, grpc_port, settings.host, rest_port)
    if settings.ready_file is not None:
        told = {"pid": os.getpid(), "host": settings.host, "port": grpc_port, "rest_api_port": rest_port}
        write_text(settings.ready_file, json.dumps(told))


def _taken(what: str, port: int, error: Exception) -> TransientError:
    return TransientError(
        f"The router cannot listen for {what}.",
        expected=f"port {port} to be free",
        received=str(error),
        remedy="Stop what listens there, or choose another port (0 for any free one).",
    )
