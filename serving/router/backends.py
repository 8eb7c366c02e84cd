"""One model server as the router knows it: whether it is well, how fast it answers, and what it has failed."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import grpc
from grpc_health.v1 import health_pb2

from serving.router.config import Address

PROBE_S = 2.0
"""A server that does not say in this time that it is well is left out."""
SMOOTHING, DECAY_S = 0.2, 10.0
"""The latency of a server is a moving mean, which fades in so many seconds without a request."""
LEAST_S, PENALTY_S, MAX_PENALTY_S = 0.001, 1.0, 60.0
"""No server counts as faster than the first; one that fails a request counts as slow as the second, at least."""
EJECT_AFTER, EJECT_S, MAX_EJECT_S, FORGET_S = 5, 5.0, 300.0, 60.0
"""Failures in a row until a server is ejected; for how long, twice as long each time; and until that begins anew."""
_SERVER_ERROR = 500
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
        self.requests = 0
        self.ejected_until = 0.0
        self.failing = False  # Since it last answered well.
        self._ejections = 0
        self._faults = 0
        self._latency_s = 0.0
        self._measured = 0.0
        self._under_way: dict[int, float] = {}  # Since when, in the order of their arrival.
        self._numbers = itertools.count()
        self.channel = grpc.aio.insecure_channel(address.grpc, options=_CHANNEL)
        self._calls: dict[str, Any] = {}
        self._health = self.call("/grpc.health.v1.Health/Check")

    def call(self, method: str) -> Any:
        """The gRPC call of one method, from bytes to bytes."""
        call = self._calls.get(method)
        if call is None:
            call = self._calls[method] = self.channel.unary_unary(method)
        return call

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return len(self._under_way)

    @contextmanager
    def counted_request(self) -> Iterator[None]:
        """Counts one request while it is under way."""
        self.requests += 1
        number = next(self._numbers)
        self._under_way[number] = time.monotonic()
        try:
            yield
        finally:
            del self._under_way[number]

    def recent_s(self, now: float) -> float | None:
        """Seconds that a request takes; None where none was answered lately."""
        return self._latency_s if now < self._measured + DECAY_S else None

    def load(self, now: float, typical_s: float) -> float:
        """Seconds until one more request would be answered, by what is known.

        Args:
          now: Seconds, of the clock that never goes back.
          typical_s: What a request takes elsewhere, towards which old knowledge fades.
        """
        weight = math.exp((self._measured - now) / DECAY_S) if self._measured else 0.0
        latency = weight * self._latency_s + (1 - weight) * typical_s
        oldest = next(iter(self._under_way.values()), now)
        return (self.in_flight + 1) * max(latency, now - oldest, LEAST_S)

    def answered(self, seconds: float, good: bool) -> None:
        """Takes over that a request was answered; a refusal, which may cost nothing, does not make it fast."""
        self._faults = 0
        if good:
            self.failing = False
            known = self._measured and self._latency_s
            self._measure(known + SMOOTHING * (seconds - known) if known else seconds)

    def waited(self, seconds: float) -> None:
        """Takes over that nobody waited for an answer any longer: it takes so many seconds at least."""
        self._measure(max(self._latency_s, seconds))

    def turned_away(self) -> None:
        """Takes over that a request did not get an answer; until it is answered well again, it counts as slow."""
        self.failing = True
        self._measure(min(max(2 * self._latency_s, PENALTY_S), MAX_PENALTY_S))

    def failed(self) -> bool:
        """Takes over that it failed a request; answers whether it was one too many in a row."""
        self.turned_away()
        self._faults += 1
        return self._faults >= EJECT_AFTER

    def forgive(self) -> None:
        """Another server failed the same request: that says nothing of this one."""
        self._measured, self.failing = 0.0, False

    def eject(self, now: float) -> float:
        """Leaves the server out; answers for how many seconds. Then one more failure is enough."""
        self._ejections = self._ejections + 1 if now < self.ejected_until + FORGET_S else 1
        seconds = min(EJECT_S * 2 ** (self._ejections - 1), MAX_EJECT_S)
        self.ejected_until = now + seconds
        self._faults = EJECT_AFTER - 1
        return seconds

    def is_available(self, now: float) -> bool:
        """Whether requests are to be sent to it: it is well and not ejected."""
        return self.healthy and now >= self.ejected_until

    def _measure(self, seconds: float) -> None:
        self._latency_s, self._measured = seconds, time.monotonic()

    async def illness(self, session: aiohttp.ClientSession) -> str:
        """Asks the server how it is; empty when it is well."""
        try:
            async with asyncio.timeout(PROBE_S):
                async with session.get(f"{self.address.rest}/v1/models/-") as response:
                    await response.read()
                    if response.status >= _SERVER_ERROR:  # Any other will do, also that there is no such model.
                        return f"REST: {response.status} to a question for the state of a model"
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

    def as_dict(self) -> dict[str, Any]:
        """As the status tells it."""
        left = self.ejected_until - time.monotonic()
        ejected = f"ejected for {left:.0f} s more, as it failed {EJECT_AFTER} requests in a row" if left > 0 else ""
        return {
            "rest": self.address.rest,
            "grpc": self.address.grpc,
            "healthy": self.healthy and not ejected,
            "reason": self.reason or ejected,
            "in_flight": self.in_flight,
            "requests": self.requests,
        }
