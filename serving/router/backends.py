"""The model servers: which of them are well, how busy each is, and which to ask next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import grpc
from grpc_health.v1 import health_pb2

from serving.router.config import Address, Settings

logger = logging.getLogger(__name__)

PROBE_S = 2.0
"""A server that does not say in this time that it is well is left out."""
MAX_TRIES = 3
"""Servers that one request is sent to, one after the other: one that ends each server must not end all of them."""
MAX_CONNECTIONS = 512
"""To each server's REST API, fewer than it takes; further requests wait for one."""
_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that comes back is found at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]


class Backend:
    """One model server.

    Args:
      address: Where it listens.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.healthy = False
        self.reason = "not asked yet"
        self.in_flight = 0
        self.requests = 0
        self.channel = grpc.aio.insecure_channel(address.grpc, options=_CHANNEL)
        self._calls: dict[str, Any] = {}
        self._health = self.call("/grpc.health.v1.Health/Check")

    def call(self, method: str) -> Any:
        """The gRPC call of one method, from bytes to bytes."""
        call = self._calls.get(method)
        if call is None:
            call = self._calls[method] = self.channel.unary_unary(method)
        return call

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Counts one request while it is under way."""
        self.in_flight += 1
        self.requests += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def illness(self, session: aiohttp.ClientSession) -> str:
        """Asks the server how it is; empty when it is well."""
        try:
            async with asyncio.timeout(PROBE_S):
                async with session.get(f"{self.address.rest}/v1/models/-") as response:
                    await response.read()  # Any answer will do, also that there is no such model.
                return await self._grpc_illness()
        except TimeoutError:
            return f"no answer in {PROBE_S:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return f"REST: {error or type(error).__name__}"

    async def _grpc_illness(self) -> str:
        try:
            answer = health_pb2.HealthCheckResponse.FromString(await self._health(b""))
        except grpc.aio.AioRpcError as error:
            # tensorflow/serving has no health service; that it says so is an answer.
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                return ""
            return f"gRPC: {error.code().name}: {error.details()}"
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            return f"gRPC: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"
        return ""

    def told(self) -> dict[str, Any]:
        """As the status tells it."""
        return {
            "rest": self.address.rest,
            "grpc": self.address.grpc,
            "healthy": self.healthy,
            "reason": self.reason,
            "in_flight": self.in_flight,
            "requests": self.requests,
        }


class Pool:
    """All model servers; made within the event loop that uses it.

    Args:
      settings: Their addresses, and how often to ask them.
      changed: Called with whether some server is well, after each look.
    """

    def __init__(self, settings: Settings, changed: Callable[[bool], None]) -> None:
        self.backends = [Backend(address) for address in settings.servers]
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=MAX_CONNECTIONS, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=PROBE_S),  # Who asks knows how long.
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        # However many requests wait for a connection, a look does not.
        self._probes = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._interval_s = settings.health_interval_s
        self._changed = changed
        self._turn = 0
        self._doubted = asyncio.Event()

    @property
    def well(self) -> list[Backend]:
        """Those that are well."""
        return [backend for backend in self.backends if backend.healthy]

    def order(self) -> list[Backend]:
        """Whom to ask for one request: of those that are well the least busy first, those that are not last."""
        self._turn += 1
        turn = self._turn % len(self.backends)
        rotated = self.backends[turn:] + self.backends[:turn]  # So that idle servers take turns.
        return sorted(rotated, key=lambda backend: (not backend.healthy, backend.in_flight))[:MAX_TRIES]

    def failed(self, backend: Backend, error: object) -> None:
        """Leaves a server out until it is found well; it is looked at at once."""
        if backend.healthy:
            logger.warning("%s is left out: %s", backend.address.rest, error)
            backend.healthy, backend.reason = False, str(error)
            self._tell()
        self.doubt()

    def doubt(self) -> None:
        """Looks at all servers now."""
        self._doubted.set()

    async def look(self) -> None:
        """Asks every server how it is."""
        self._doubted.clear()
        await asyncio.gather(*(self._look_at(backend) for backend in self.backends))

    async def run(self) -> None:
        """Looks again and again."""
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._doubted.wait()
                await asyncio.sleep(0.02)  # However many requests doubt a server, it is asked once for all of them.
            except TimeoutError:
                pass
            await self.look()

    async def close(self) -> None:
        """Closes all connections."""
        await self.session.close()
        await self._probes.close()
        await asyncio.gather(*(backend.channel.close() for backend in self.backends))

    async def _look_at(self, backend: Backend) -> None:
        reason = await backend.illness(self._probes)
        if backend.healthy != (not reason):
            logger.info("%s is %s", backend.address.rest, f"left out: {reason}" if reason else "well")
        backend.healthy, backend.reason = not reason, reason
        self._tell()

    def _tell(self) -> None:
        self._changed(bool(self.well))
