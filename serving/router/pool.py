"""The model servers: whom to ask for a request, whom to ask again, and whom to leave out.

A server is chosen by the requests that it has under way times the time it takes for one. One that fails requests counts
as slow at once, and after several in a row it is ejected for a while: a server that refuses quickly never looks idle.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import aiohttp

from serving.router import metrics
from serving.router.attempts import Outcome, Quarantine, RetryBudget
from serving.router.backends import LEAST_S, PROBE_S, Backend
from serving.router.config import Settings
from serving.router.trials import Answer

logger = logging.getLogger(__name__)

MAX_TRIES = 3
"""Servers that one request is offered to; but a server that took it and failed leaves it one retry only."""
ALIKE = 2.0
"""Servers whose load is within this factor of the least are as good as that one."""
MAX_CONNECTIONS = 512
"""To each server's REST API, fewer than it takes; further requests wait for one."""

_NOT_OURS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")

Attempt = tuple[Outcome, Answer | None, str]
"""How it ended, the answer where there is one, and what to say where there is none."""
Send = Callable[[Backend, bool], Awaitable[Attempt]]


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
            skip_auto_headers=_NOT_OURS,
        )
        # A request that is sent again gets a new connection: a kept one may have been closed a moment ago, too.
        self.fresh_session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=PROBE_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_OURS,
        )
        # However many requests wait for a connection, a look does not.
        self._probes = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._interval_s = settings.health_interval_s
        self._changed = changed
        self._turn = 0
        self._doubted = asyncio.Event()
        self._budget = RetryBudget()
        self._quarantine = Quarantine()

    @property
    def well(self) -> list[Backend]:
        """Those that are well."""
        return [backend for backend in self.backends if backend.healthy]

    def order(self) -> list[Backend]:
        """Whom to ask for one request: the least loaded first, those that are ejected or not well last."""
        now = time.monotonic()
        self._turn += 1
        turn = self._turn % len(self.backends)
        rotated = self.backends[turn:] + self.backends[:turn]  # So that idle servers take turns.
        known = [seconds for each in self.backends if (seconds := each.recent_s(now)) is not None]
        typical = min(known, default=LEAST_S)
        loads = {each: each.load(now, typical) for each in rotated}
        least = min((loads[each] for each in rotated if each.is_available(now) and not each.failing), default=0.0)

        def rank(backend: Backend) -> tuple[bool, bool, float, int]:
            load = loads[backend]
            # Between servers that are much alike small differences are noise, and the least busy one is asked.
            alike = not backend.failing and load <= ALIKE * least
            return not backend.healthy, not backend.is_available(now), least if alike else load, backend.in_flight

        return sorted(rotated, key=rank)[:MAX_TRIES]

    async def ask(
        self, target: str, content: bytes, send: Send, *, chosen: bool = False, blame: bool = True
    ) -> Attempt:
        """Has a request answered by one server, or by another where the first gave no answer that can stand.

        Args:
          target: The request's path with its query, or its method.
          content: The request's body.
          send: Sends it to a server, over a new connection where that is asked for.
          chosen: The router chose the version: that no server has it goes before what else they say, and a fault is
            the version's.
          blame: Whether a fault counts against the server, where another one answers the same request.

        Returns:
          How it ended, and the answer; None where no server gave one.
        """
        self._budget.add_request()
        if self._quarantine.holds(target, content):
            return Outcome.CUT, None, "This request cut the connections to two servers; it is not passed on for a while"
        attempts: list[Attempt] = []
        fault: tuple[Backend, Attempt] | None = None  # Whose it is, another server tells.
        order = self.order()
        retried = False
        while order:
            backend, began = order.pop(0), time.monotonic()
            attempt = await self._attempt(backend, send, fresh=bool(attempts))
            attempts.append(attempt)
            outcome = attempt[0]
            if outcome is Outcome.ANSWERED:
                self._quarantine.clear(target, content)
                if fault is not None and attempt[1] is not None and attempt[1].code < HTTPStatus.INTERNAL_SERVER_ERROR:
                    self._blame(*fault)
                return attempt
            if outcome in (Outcome.ABSENT, Outcome.UNSENT):
                continue
            if outcome is Outcome.FAULT:
                if fault is not None:
                    fault[0].forgive()
                    break
                if blame:
                    fault = backend, attempt
                    backend.turned_away()
            else:
                self._blame(backend, attempt)
            if outcome is Outcome.CUT:
                self._quarantine.cut(target, content, began)
                order = order or [backend]
            if retried or (chosen and outcome is Outcome.FAULT) or not order or not self._budget.take():
                break
            retried = True
        return _best(attempts, chosen)

    async def _attempt(self, backend: Backend, send: Send, *, fresh: bool) -> Attempt:
        """Sends a request to one server, which is known the better for it."""
        if fresh:
            metrics.resent("server")
        started = time.monotonic()
        try:
            outcome, answer, reason = await send(backend, fresh)
        except asyncio.CancelledError:  # Its time is over, or its client has gone.
            backend.waited(time.monotonic() - started)
            raise
        if outcome is Outcome.UNSENT:
            self.failed(backend, reason)
        elif outcome is Outcome.ANSWERED and answer is not None:
            if answer.code == HTTPStatus.GATEWAY_TIMEOUT:
                backend.waited(time.monotonic() - started)
            else:
                backend.answered(time.monotonic() - started, good=answer.code < HTTPStatus.BAD_REQUEST)
        return outcome, answer, reason

    def _blame(self, backend: Backend, attempt: Attempt) -> None:
        """Takes over that a server failed a request, and ejects it where that was one too many in a row."""
        outcome, _, reason = attempt
        if outcome is Outcome.FULL:
            backend.turned_away()
            return
        if outcome is Outcome.CUT:
            self.doubt()
        if not backend.failed():
            return
        now = time.monotonic()
        others = [each for each in self.backends if each is not backend and each.is_available(now)]
        ejected = sum(now < each.ejected_until for each in self.backends)
        # Where most fail it is not the servers: at least one half, and one that is well, stays.
        if now < backend.ejected_until or not others or 2 * (ejected + 1) > len(self.backends):
            return
        seconds = backend.eject(now)
        logger.warning("%s is ejected for %g s: %s", backend.address.rest, seconds, reason)

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
        await self.fresh_session.close()
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


def _best(attempts: list[Attempt], chosen: bool) -> Attempt:
    """Of several that failed: what a server that has the model answered, or that one lacks it, else all reasons.

    Where the router chose the version, that one lacks it goes first.
    """
    absent = [attempt for attempt in attempts if attempt[0] is Outcome.ABSENT]
    answered = [attempt for attempt in reversed(attempts) if attempt[1] is not None and attempt not in absent]
    failed = [attempt for attempt in answered if attempt[0] is not Outcome.UNSENT]
    none = attempts[-1][0], None, "; ".join(reason for _, _, reason in attempts)
    return [*(absent + failed if chosen else failed + absent), *answered, none][0]
