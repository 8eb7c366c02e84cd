"""Puts the parts together: loads, listens, says so, and on SIGTERM lets running requests finish."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket

import grpc
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from airtight.errors import TransientError
from airtight.files import write_text
from serving.config import Settings
from serving.connections import HttpServer, limited
from serving.grpc_api import ModelService, PredictionService
from serving.inference import Runner
from serving.malformed import Registrar
from serving.manager import Manager
from serving.prediction_cache import PredictionCache
from serving.prediction_log.log import PredictionLog
from serving.rest import RestApi
from serving.versions import Registry

logger = logging.getLogger(__name__)

MAX_STREAMS = 256
"""gRPC calls at once on one connection; a client's further calls wait on its side."""

_HEALTHY = health_pb2.HealthCheckResponse.SERVING
_SERVICES = ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
      TransientError: A port is taken.
      TerminalError: The settings cannot be served.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    if settings.exit_with_stdin:
        loop.add_reader(0, _stop_at_end, loop, stopping)
    # What the imports made stays: the garbage collector need not look through all of it, holding up every request,
    # whenever a version is loaded. The models are not part of that yet: a version that goes is collected.
    gc.collect()
    gc.freeze()
    registry = Registry()
    manager = Manager(settings, registry)
    runner = Runner(settings.workers, settings.batching, _cache(settings))
    log = PredictionLog(settings.prediction_log, registry)
    rest_socket = _bound(settings)
    await manager.poll()
    manager.apply_labels()
    grpc_server, grpc_port, healthy = await _start_grpc(settings, registry, runner, manager, log)
    http = HttpServer(
        uvicorn.Config(
            RestApi(registry, runner, settings, log),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http=limited(settings.limits),
            server_header=False,
            timeout_keep_alive=round(settings.limits.keep_alive_s),
            timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        )
    )
    rest = asyncio.create_task(http.serve([rest_socket]))
    while not http.started and not rest.done():
        await asyncio.sleep(0.005)
    _say_ready(settings, grpc_port, rest_socket.getsockname()[1])
    polling = asyncio.create_task(manager.run())
    await asyncio.wait([asyncio.create_task(stopping.wait()), polling, rest], return_when=asyncio.FIRST_COMPLETED)
    logger.info("Stopping: no new requests are taken, running ones have %g s", settings.drain_s)
    for service in _SERVICES:
        await healthy.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
    http.should_exit = True
    await asyncio.gather(rest, grpc_server.stop(settings.drain_s))
    polling.cancel()
    failed = (await asyncio.gather(polling, return_exceptions=True))[0]
    await manager.close()
    runner.close()
    await asyncio.to_thread(log.close)
    if isinstance(failed, Exception):
        raise failed


def _cache(settings: Settings) -> PredictionCache | None:
    if not settings.prediction_cache_entries:
        return None
    return PredictionCache(
        settings.prediction_cache_entries, settings.prediction_cache_bytes, settings.prediction_cache_ttl_s
    )


async def _start_grpc(
    settings: Settings, registry: Registry, runner: Runner, manager: Manager, log: PredictionLog
) -> tuple[grpc.aio.Server, int, health.aio.HealthServicer]:
    server = grpc.aio.server(
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
            *settings.grpc_channel_arguments,
        ]
    )
    services = Registrar(server)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(registry, runner, log), services
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(registry, manager), services)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, services)
    try:
        port = server.add_insecure_port(f"{settings.host}:{settings.port}")
    except RuntimeError as error:
        raise _taken("gRPC", settings.port, error) from error
    await server.start()
    for service in _SERVICES:
        await healthy.set(service, _HEALTHY)
    return server, port, healthy


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


def _stop_at_end(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    if not os.read(0, 4096):
        loop.remove_reader(0)
        stopping.set()


def _say_ready(settings: Settings, grpc_port: int, rest_port: int) -> None:
    logger.info("Serving gRPC on %s:%d and REST on %s:%d", settings.host, grpc_port, settings.host, rest_port)
    if settings.ready_file is not None:
        told = {"pid": os.getpid(), "host": settings.host, "port": grpc_port, "rest_api_port": rest_port}
        write_text(settings.ready_file, json.dumps(told))


def _taken(what: str, port: int, error: Exception) -> TransientError:
    return TransientError(
        f"The model server cannot listen for {what}.",
        expected=f"port {port} to be free",
        received=str(error),
        remedy="Stop what listens there, or choose another port (0 for any free one).",
    )
