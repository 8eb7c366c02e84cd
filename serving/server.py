"""Puts the parts together: loads, listens, says so, and on SIGTERM lets running requests finish."""

from __future__ import annotations

import asyncio
import gc
import logging

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.bodies import Bodies
from serving.config import Settings
from serving.grpc_api import ModelService, PredictionService
from serving.inference import Runner
from serving.listening import SERVICES, bound, grpc_server, say_ready, start_grpc, start_http, told_to_stop
from serving.malformed import Registrar
from serving.manager import Manager
from serving.prediction_cache import PredictionCache
from serving.prediction_log.log import PredictionLog
from serving.rest import RestApi
from serving.versions import Registry

logger = logging.getLogger(__name__)

UNLOAD_S = 1.0
"""For unloading, where the requests have taken all of the time to drain."""
_HEALTHY = health_pb2.HealthCheckResponse.SERVING


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
      TransientError: A port is taken.
      TerminalError: The settings cannot be served.
    """
    stopping = told_to_stop(settings)
    # What the imports made stays: the garbage collector need not look through all of it, holding up every request,
    # whenever a version is loaded. The models are not part of that yet: a version that goes is collected.
    gc.collect()
    gc.freeze()
    registry = Registry()
    manager = Manager(settings, registry)
    runner = Runner(settings.workers, settings.batching, _cache(settings), settings.max_waiting_requests)
    bodies = Bodies(settings.max_request_bytes, settings.max_pending_bytes)
    log = PredictionLog(settings.prediction_log, registry)
    rest_socket = bound(settings)
    first = asyncio.create_task(manager.poll())
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait([first, stop], timeout=settings.initial_load_wait_s, return_when=asyncio.FIRST_COMPLETED)
    if first.done():
        first.result()
    elif not stop.done():
        logger.warning("The server listens though not all models have loaded in %g s", settings.initial_load_wait_s)
    manager.apply_labels()
    rpc = grpc_server(settings, *settings.grpc_channel_arguments)
    services = Registrar(rpc, bodies)
    prediction = PredictionService(registry, runner, log, settings.grpc_api_timeout_s)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, services)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(registry, manager), services)
    grpc_port, healthy = await _start_grpc(settings, rpc, services)
    http, rest = await start_http(RestApi(registry, runner, settings, log, bodies), settings, rest_socket)
    say_ready(settings, grpc_port, rest_socket.getsockname()[1])
    polling = asyncio.create_task(manager.run())
    await asyncio.wait([stop, polling, rest], return_when=asyncio.FIRST_COMPLETED)
    over = asyncio.get_running_loop().time() + settings.drain_s
    logger.info("Stopping: no new requests are taken, running ones have %g s", settings.drain_s)
    for service in SERVICES:
        await healthy.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
    http.should_exit = True
    await asyncio.gather(rest, rpc.stop(settings.drain_s))
    polling.cancel()
    # Before what may wait for a call that does not end: who stops the server may not wait so long.
    await asyncio.to_thread(log.close)
    failed = (await asyncio.gather(polling, return_exceptions=True))[0]
    first.cancel()
    try:
        async with asyncio.timeout_at(max(over, asyncio.get_running_loop().time() + UNLOAD_S)):
            await manager.close()
    except TimeoutError:
        logger.warning("The server ends though not all models are unloaded")
    runner.close()
    if isinstance(failed, Exception):
        raise failed


def _cache(settings: Settings) -> PredictionCache | None:
    if not settings.prediction_cache_entries:
        return None
    return PredictionCache(
        settings.prediction_cache_entries, settings.prediction_cache_bytes, settings.prediction_cache_ttl_s
    )


async def _start_grpc(
    settings: Settings, server: grpc.aio.Server, services: Registrar
) -> tuple[int, health.aio.HealthServicer]:
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, services)
    port = await start_grpc(server, settings)
    for service in SERVICES:
        await healthy.set(service, _HEALTHY)
    return port, healthy
