"""Puts the router's parts together: listens, says so, and on SIGTERM lets running requests finish."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import warnings
from dataclasses import replace

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.listening import SERVICES, bound, grpc_server, say_ready, start_grpc, start_http, told_to_stop
from serving.router.catalogue import Catalogue
from serving.router.config import Settings
from serving.router.follower import Follower
from serving.router.grpc_proxy import GrpcRouter
from serving.router.pool import Pool
from serving.router.rest import RestRouter
from serving.router.trials import Trials

logger = logging.getLogger(__name__)

_Status = health_pb2.HealthCheckResponse


class _Health:
    """The router's own gRPC health: it serves while some server does."""

    def __init__(self) -> None:
        self.servicer = health.aio.HealthServicer()
        self._reported: bool | None = None
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()

    def changed(self, well: bool) -> None:
        """Takes over whether some server is well."""
        if well == self._reported or self._stopping:
            return
        self._reported = well
        task = asyncio.get_running_loop().create_task(self._set(_Status.SERVING if well else _Status.NOT_SERVING))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Says for good that no more requests are taken."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._set(_Status.NOT_SERVING)

    async def _set(self, status: int) -> None:
        for service in SERVICES:
            await self.servicer.set(service, status)


async def route(settings: Settings) -> None:
    """Routes until SIGTERM or SIGINT.

    Raises:
      TerminalError: What `--online` names is not there.
      TransientError: A port is taken.
    """
    stopping = told_to_stop(settings)
    _allow_many_sockets()
    warnings.filterwarnings("ignore", category=ResourceWarning, module="aiohttp")  # Bodies are in memory as a whole.
    sockets = bound(settings), bound(administration(settings))
    own_health = _Health()
    pool = Pool(settings, own_health.changed)
    try:
        await _route(settings, stopping, sockets, pool, own_health)
    finally:
        await pool.close()


def administration(settings: Settings) -> Settings:
    """The same settings, for the listeners of the administration."""
    return replace(
        settings,
        host=settings.admin_host,
        rest_api_port=settings.admin_port,
        port=settings.admin_grpc_port or 0,
        grpc_socket_path="",
    )


async def _route(
    settings: Settings,
    stopping: asyncio.Event,
    sockets: tuple[socket.socket, socket.socket],
    pool: Pool,
    own_health: _Health,
) -> None:
    trials = Trials(settings.state_file)
    follower = Follower(settings.models_root, trials.follow)
    follower.look()
    await pool.look()
    rpc = grpc_server(settings)
    rpc.add_generic_rpc_handlers((GrpcRouter(pool, trials),))
    health_pb2_grpc.add_HealthServicer_to_server(own_health.servicer, rpc)
    grpc_port = await start_grpc(rpc, settings)
    app = RestRouter(settings, pool, trials, Catalogue(settings.models_root, pool), lambda: follower.error)
    http, rest = await start_http(app, settings, sockets[0])
    admin_settings = administration(settings)
    admin_http, admin_rest = await start_http(app.administration, admin_settings, sockets[1])
    ports = {"admin_port": sockets[1].getsockname()[1]}
    servers = [rpc]
    if settings.admin_grpc_port is not None:
        servers.append(grpc_server(admin_settings))
        servers[1].add_generic_rpc_handlers((GrpcRouter(pool, trials, admin=True),))
        ports["admin_grpc_port"] = await start_grpc(servers[1], admin_settings)
    say_ready(settings, grpc_port, sockets[0].getsockname()[1], **ports)
    running = [asyncio.create_task(part.run()) for part in (pool, follower, trials)]
    ends = [asyncio.create_task(stopping.wait()), rest, admin_rest, *running]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    logger.info("Stopping: no new requests are taken, running ones have %g s", settings.drain_s)
    await own_health.stop()
    http.should_exit = admin_http.should_exit = True
    await asyncio.gather(rest, admin_rest, *(server.stop(settings.drain_s) for server in servers))
    for task in running:
        task.cancel()
    ended = await asyncio.gather(*running, return_exceptions=True)
    await trials.close()
    for failed in ended:
        if isinstance(failed, Exception):
            raise failed


def _allow_many_sockets() -> None:
    """Each client and each request under way is a socket, and a shell's limit may be 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536) if hard > 0 else 65536), hard))
