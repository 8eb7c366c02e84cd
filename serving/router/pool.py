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

    async def ask(self, content: bytes, send: Send, *, chosen: bool = False, blame: bool = True) -> Attempt:
        """Has a request answered by one server, or by another where the first gave no answer that can stand.

        Args:
          content: The request's body.
          send: Sends it to a server, over a new connection where that is asked for.
          chosen: The router chose the version: a server that lacks it is passed over, and a fault is the version's.
          blame: Whether a fault counts against the server.

        Returns:
          How it ended, and the answer; None where no server gave one.
        """
        self._budget.add_request()
        if self._quarantine.holds(content):
            return Outcome.CUT, None, "This request cut the connections to two servers; it is not passed on for a while"
        attempts: list[Attempt] = []
        faulty: Backend | None = None
        order = self.order()
        retried = False
        while order:
            backend = order.pop(0)
            attempt = await self._attempt(backend, send, fresh=bool(attempts))
            attempts.append(attempt)
            outcome = attempt[0]
            if outcome is Outcome.ANSWERED:
                self._quarantine.clear(content)
                return attempt
            if outcome in (Outcome.ABSENT, Outcome.UNSENT):
                continue
            if outcome is Outcome.FAULT and faulty is not None:
                faulty.forgive()
                break
            faulty = backend if outcome is Outcome.FAULT and blame else None
            if blame or outcome is not Outcome.FAULT:
                self._blame(backend, attempt)
            if outcome is Outcome.CUT:
                self._quarantine.cut(content)
                order = order or [backend]
            if retried or (chosen and outcome is Outcome.FAULT) or not order or not self._budget.take():
                break
            retried = True
        return _best(attempts)

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


def _best(attempts: list[Attempt]) -> Attempt:
    """Of several that failed: a server's word that it lacks the version, else the last answer, else all reasons."""
    absent = next((attempt for attempt in attempts if attempt[0] is Outcome.ABSENT), None)
    answered = [attempt for attempt in attempts if attempt[1] is not None]
    if absent or answered:
        return absent or answered[-1]
    return attempts[-1][0], None, "; ".join(reason for _, _, reason in attempts)
