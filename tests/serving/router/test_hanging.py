"""Requests whose clients do not wait for the end: they are counted, and nothing goes on for them. In one process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from tensorflow_serving.apis import predict_pb2

from airtight.rollout.state import Release
from serving.errors import ServingError
from serving.listening import bound, start_http
from serving.router import metrics
from serving.router.arm_metrics import Counts
from serving.router.backends import Backend
from serving.router.catalogue import Catalogue
from serving.router.config import Online, Settings, settings_from_flags
from serving.router.grpc_proxy import GrpcRouter
from serving.router.online import THREADS, Filling
from serving.router.pool import Pool
from serving.router.rest import RestRouter
from serving.router.trials import SIDES, Answer, RoutedRequest, Trials, cell

GATEWAY_TIMEOUT = "504"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
BODY = b'{"instances": [1.0]}'


class Hanging:
    """A router before a server that takes every request and answers none.

    Args:
      settings: The router's.
    """

    def __init__(self, settings: Settings) -> None:
        self.pool = Pool(settings, lambda well: None)
        self.trials = Trials()
        (self.backend,) = self.pool.backends
        self.backend.healthy = True
        self._settings = settings

    @property
    def counts(self) -> Counts:
        """What is counted of the release."""
        return self.trials.of["m"].counts

    def release(self, mode: str = "canary") -> None:
        """Begins one that sends everything to the candidate, or to both."""
        self.trials.follow({"m": Release("m", "a", 1, 2, mode=mode, share=1.0)})

    @contextlib.asynccontextmanager
    async def grpc_call(self) -> AsyncIterator[Callable[..., Awaitable[bytes]]]:
        """A client's call of Predict."""
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((GrpcRouter(self.pool, self.trials),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield channel.unary_unary(PREDICT)
        finally:
            await server.stop(None)

    @contextlib.asynccontextmanager
    async def rest_port(self) -> AsyncIterator[int]:
        """The port of its REST API."""
        catalogue = Catalogue(self._settings.models_root, self.pool)
        app = RestRouter(self._settings, self.pool, self.trials, catalogue, lambda: "")
        listener = bound(self._settings)
        http, ended = await start_http(app, self._settings, listener)
        try:
            yield listener.getsockname()[1]
        finally:
            http.should_exit = True
            await ended


class _Silent(grpc.GenericRpcHandler):
    def service(self, handler_call_details):
        async def hang(request: bytes, context: object) -> bytes:
            await asyncio.Event().wait()
            return b""

        return grpc.unary_unary_rpc_method_handler(hang)


@contextlib.asynccontextmanager
async def hanging(*flags: str) -> AsyncIterator[Hanging]:
    """A router, and the server that hangs."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # Until the router closes the connection.
        writer.close()

    calls = grpc.aio.server()
    calls.add_generic_rpc_handlers((_Silent(),))
    grpc_port = calls.add_insecure_port("127.0.0.1:0")
    await calls.start()
    rest = await asyncio.start_server(hang, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{rest.sockets[0].getsockname()[1]}=127.0.0.1:{grpc_port}"
    router = Hanging(settings_from_flags(["--models_root=m", "--rest_api_port=0", f"--server={address}", *flags]))
    try:
        yield router
    finally:
        await router.trials.close()
        await router.pool.close()
        rest.close()
        await calls.stop(None)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


async def send(port: int, path: str) -> asyncio.StreamWriter:
    """Sends a request over REST and does not wait for its answer."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (path.encode(), len(BODY), BODY))
    await writer.drain()
    return writer


def under_way(backend: Backend) -> Callable[[], bool]:
    return lambda: backend.in_flight == 1


def requests_in_metrics(api: str, side: str) -> bool:
    line = f'model="",api="{api}",side="{side}",code="504"'
    return line in metrics.exposition([]).decode()


@pytest.mark.parametrize("mode", ["canary", "split", "shadow"])
def test_a_request_that_is_cancelled_is_counted_as_a_timeout(mode):
    trials = Trials()
    trials.follow({"m": Release("m", "a", 1, 2, mode=mode, share=1.0)})
    sides: list[str] = []

    async def ask(version: int | None, side: str) -> Answer:
        sides.append(side)
        await asyncio.Event().wait()
        raise AssertionError

    async def cancelled() -> None:
        request = RoutedRequest(key="caller", ask=ask, read=lambda content: [0.5], size=1)
        task = asyncio.ensure_future(trials.answer(trials.of["m"], request))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(cancelled())
    side = "stable" if mode == "shadow" else "candidate"
    arm = trials.of["m"].counts.side(side)
    assert arm.traffic.codes == {GATEWAY_TIMEOUT: 1} and arm.traffic.latency.count == 1
    assert sides == [side], "the shadow of a request that nobody waits for would have no pair"
    if mode == "split":
        assert arm.cells[cell("a", "caller")].traffic.codes == {GATEWAY_TIMEOUT: 1}


@pytest.mark.parametrize("ending", ["deadline", "cancel"])
def test_a_candidate_that_hangs_is_known_by_the_calls_that_nobody_waits_for(ending):
    request = predict_pb2.PredictRequest(model_spec={"name": "m"}).SerializeToString()

    async def ask() -> dict[str, int]:
        async with hanging() as router:
            router.release()
            async with router.grpc_call() as call:
                waiting = asyncio.ensure_future(call(request, timeout=3 if ending == "deadline" else 60))
                if ending == "cancel":
                    await until(under_way(router.backend))
                    waiting.cancel()
                with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                    await waiting
                await until(lambda: bool(router.counts.candidate.traffic.codes))
            await until(lambda: not router.backend.in_flight)
            return router.counts.candidate.traffic.codes

    assert asyncio.run(ask()) == {GATEWAY_TIMEOUT: 1}
    assert requests_in_metrics("GRPC", SIDES[1])


def test_a_client_over_rest_that_leaves_ends_its_request_and_is_counted():
    async def ask() -> dict[str, int]:
        async with hanging() as router, router.rest_port() as port:
            router.release()
            client = await send(port, "/v1/models/m:predict")
            await until(under_way(router.backend))
            client.close()
            await until(lambda: not router.backend.in_flight)
            return router.counts.candidate.traffic.codes

    assert asyncio.run(ask()) == {GATEWAY_TIMEOUT: 1}
    assert requests_in_metrics("REST", SIDES[1])


def test_what_a_client_over_rest_asks_beside_a_release_ends_with_it_too(caplog):
    async def ask() -> None:
        async with hanging() as router, router.rest_port() as port:
            for path in ("/v1/models/m:predict", "/v1/models/m/metadata", "/v1/other"):
                client = await send(port, path)
                await until(under_way(router.backend))
                client.close()
                await until(lambda: not router.backend.in_flight)

    asyncio.run(ask())
    assert requests_in_metrics("REST", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class Waiting:
    """A lookup that takes until it is let go."""

    started = 0
    go_on = threading.Event()

    def __call__(self, instances):
        Waiting.started += 1
        Waiting.go_on.wait(60)
        return [{"x": 1.0} for _ in instances], [{} for _ in instances]


def test_lookups_that_wait_for_a_thread_keep_no_bodies_of_requests_that_are_over():
    async def ask() -> None:
        Waiting.started, Waiting.go_on = 0, threading.Event()
        filling = Filling([Online("slow", "m", f"{__name__}:Waiting")], timeout_s=1.0)

        async def unused(path: str, body: bytes) -> Answer:
            raise AssertionError("its time was over before")

        async def over(body: bytes) -> None:
            with pytest.raises(ServingError, match="No features in"):
                await filling.answer("slow", body, unused)

        bodies = [BODY + b" " * (number + 1) for number in range(3 * THREADS)]
        references = [sys.getrefcount(body) for body in bodies]
        try:
            # Those of the second round wait for threads that hang for requests that are over.
            first = asyncio.gather(*map(over, bodies[:THREADS]))
            await until(lambda: Waiting.started == THREADS)
            await first
            await asyncio.gather(*map(over, bodies[THREADS:]))
            gc.collect()
            assert Waiting.started == THREADS
            assert [sys.getrefcount(body) for body in bodies][THREADS:] == references[THREADS:]
        finally:
            Waiting.go_on.set()

        async def model(path: str, body: bytes) -> Answer:
            return Answer(200, b'{"outputs": [0.5]}', [])

        # The threads are free again.
        answer = await filling.answer("slow", BODY, model)
        assert answer.code == 200 and Waiting.started == THREADS + 1

    asyncio.run(ask())
