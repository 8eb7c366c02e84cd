"""The REST side of the router: one ASGI application that sends each request to a server and its answer back."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from multidict import CIMultiDict
from yarl import URL

from airtight.rollout.state import KEY_HEADER, SHADOW
from serving import cors, paths
from serving.bodies import Bodies, Gone
from serving.connections import GONE, TASK
from serving.errors import HTTP_STATUS, ServingError
from serving.metrics import CONTENT_TYPE
from serving.router import answers, metrics
from serving.router.attempts import Outcome
from serving.router.backends import Backend
from serving.router.catalogue import Catalogue
from serving.router.config import Settings
from serving.router.online import Filling
from serving.router.pool import Attempt, Pool
from serving.router.trials import GATEWAY_TIMEOUT, STABLE, Answer, RoutedRequest, Trials

logger = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

REQUEST_ID, SIDE, VERSION = "x-request-id", "x-airtight-side", "x-airtight-version"
MAX_ID = 200
"""Characters of a client's request id; a longer one is replaced."""

_CALL = re.compile(r"/v1/models/([^/:]+)(/[^:]*)?:(predict|classify|regress)", re.ASCII)
_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
_NOT_SENT = _HOP_BY_HOP | {
    *(b"host", b"content-length", b"expect", b"accept-encoding"),
    *(SIDE.encode(), VERSION.encode(), REQUEST_ID.encode()),
}
_NOT_ANSWERED = _HOP_BY_HOP | {b"content-length", b"date", REQUEST_ID.encode()}
_JSON: Headers = [(b"content-type", b"application/json")]
_PAGE: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        b"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]
_NOT_SENT_AT_ALL = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_OUTCOMES: dict[int, Outcome] = {
    HTTPStatus.TOO_MANY_REQUESTS: Outcome.FULL,
    HTTPStatus.INTERNAL_SERVER_ERROR: Outcome.FAULT,
    HTTPStatus.BAD_GATEWAY: Outcome.FAULT,
    HTTPStatus.SERVICE_UNAVAILABLE: Outcome.BUSY,
}
_CUT_OFF = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)


class RestRouter:
    """Answers HTTP requests.

    Args:
      settings: Limits.
      pool: The servers.
      trials: The releases under way.
      catalogue: The models, for the page.
      error: Tells why `releases.json` cannot be read, or nothing.

    Raises:
      TerminalError: What `--online` names is not there.
    """

    def __init__(
        self, settings: Settings, pool: Pool, trials: Trials, catalogue: Catalogue, error: Callable[[], str]
    ) -> None:
        self._bodies = Bodies(settings.max_request_bytes, settings.max_pending_bytes)
        self._timeout_s = settings.rest_api_timeout_s
        self._cors = settings.cors
        self._pool = pool
        self._trials = trials
        self._catalogue = catalogue
        self._error = error
        self._filling = Filling(settings.online, settings.rest_api_timeout_s)
        self._page = Path(__file__).with_name("page.html").read_bytes()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One request of a client, as ASGI passes it."""
        await self._answer(scope, receive, send, admin=False)

    async def administration(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One request to the administration's port: status, metrics and page, and all that clients may ask."""
        await self._answer(scope, receive, send, admin=True)

    async def _answer(self, scope: dict[str, Any], receive: Receive, send: Send, *, admin: bool) -> None:
        path = paths.path_of(scope["raw_path"])
        headers: Headers = scope["headers"]
        request_id = _value(headers, REQUEST_ID.encode())
        if request_id is None or not 0 < len(request_id) <= MAX_ID:
            request_id = os.urandom(16).hex().encode()
        scope[TASK] = asyncio.current_task()
        try:
            name = self._filling.name(scope["method"], path)
            async with self._bodies.read(scope, receive, unpack=bool(name)) as content:
                if path.startswith("/router/") or (path == "/" and scope["method"] in ("GET", "HEAD") and admin):
                    answer = await self._own(path, admin)
                elif scope["method"] == "OPTIONS" and self._cors:
                    cors.check_preflight(headers)
                    answer = Answer(200, b"", [])
                elif name:
                    without_query = {**scope, "query_string": b""}
                    plain = [header for header in headers if header[0] != b"content-encoding"]

                    async def ask(model: str, body: bytes) -> Answer:
                        return await self._route(without_query, model, plain, body, request_id)

                    answer = await self._filling.answer(name, content, ask)
                else:
                    answer = await self._route(scope, path, headers, content, request_id)
        except Gone:
            return
        except asyncio.CancelledError:
            if not scope.get(GONE):
                raise
            return  # Nobody waits for an answer.
        except ServingError as error:
            answer = _refusal(HTTP_STATUS[error.code], error.message)
        del scope[TASK]  # What is left is to send the answer.
        answer_headers = [*answer.rest, (b"x-request-id", request_id)]
        if self._cors:
            names = {name for name, _ in answer_headers}
            answer_headers += [header for header in cors.HEADERS if header[0] not in names]
        if not any(name == b"content-length" for name, _ in answer_headers):
            answer_headers.append((b"content-length", str(len(answer.content)).encode()))
        await send({"type": "http.response.start", "status": answer.code, "headers": answer_headers})
        await send({"type": "http.response.body", "body": answer.content})

    async def _own(self, path: str, admin: bool) -> Answer:
        if not admin:
            return _refusal(404, f"Not found: {path}; the router's own paths are on its administration port")
        if path == "/":
            return Answer(200, self._page, list(_PAGE))
        if path == "/router/status":
            return Answer(200, orjson.dumps(self._status()), [*_JSON, (b"cache-control", b"no-store")])
        if path == "/router/models":
            return Answer(200, orjson.dumps(await self._catalogue.as_dict()), [*_JSON, (b"cache-control", b"no-store")])
        if path == "/router/metrics":
            kind = CONTENT_TYPE.encode()
            return Answer(200, metrics.exposition(self._pool.backends), [(b"content-type", kind)])
        return _refusal(404, f"Not found: {path}")

    def _status(self) -> dict[str, Any]:
        return {
            "servers": [backend.as_dict() for backend in self._pool.backends],
            "releases": self._trials.as_dict(),
            "models": {model: traffic.as_dict() for model, traffic in sorted(metrics.TRAFFIC.items())},
            "error": self._error(),
        }

    async def _route(
        self, scope: dict[str, Any], path: str, headers: Headers, content: bytes, request_id: bytes
    ) -> Answer:
        method, query = scope["method"], scope["query_string"].decode("latin-1")
        over, dropped = self._over(), _NOT_SENT | _of_the_connection(headers)
        sent: CIMultiDict[str] = CIMultiDict(
            (name.decode("latin-1"), value.decode("utf-8", "replace")) for name, value in headers if name not in dropped
        )
        sent[REQUEST_ID] = request_id.decode("utf-8", "replace")

        call = _CALL.fullmatch(path) if method == "POST" else None

        async def ask(route: str, side: str = "") -> Answer:
            target = f"{route}?{query}" if query else route
            headers = sent
            if side:
                headers = sent.copy()
                headers[SIDE] = side
            # Nobody waits for a shadow request: the caller's time is not its own.
            until = self._over() if side == SHADOW else over
            try:
                async with asyncio.timeout_at(until):
                    # A fault of the version on trial says nothing of the server.
                    how = {"chosen": bool(side), "blame": side in ("", STABLE)}
                    return await self._ask(method, target, headers, content, predicts=call is not None, **how)
            except TimeoutError:
                return _refusal(GATEWAY_TIMEOUT, f"No answer in {self._timeout_s:g} s")

        if call is None:
            return await ask(path)
        started, side = time.perf_counter(), ""
        model, chosen, verb = paths.decoded(call[1]), call[2], call[3]
        trial = self._trials.of.get(model) if chosen is None else None
        try:
            if trial is None:
                answer = await ask(path)
            else:

                async def ask_version(version: int | None, chosen_side: str) -> Answer:
                    nonlocal side
                    if chosen_side != SHADOW:
                        side = chosen_side
                    if version is None:
                        return await ask(path)
                    return await ask(f"/v1/models/{call[1]}/versions/{version}:{verb}", chosen_side)

                versions = {"stable": trial.release.stable, "candidate": trial.release.candidate}
                key = _value(headers, KEY_HEADER.encode())
                routed = RoutedRequest(
                    key=None if key is None else key.decode("utf-8", "surrogateescape"),
                    ask=ask_version,
                    read=partial(answers.from_rest, verb),
                    size=len(content),
                )
                answer, side = await self._trials.answer(trial, routed)
                if side:
                    answer.rest.append((VERSION.encode(), str(versions[side]).encode()))
                    answer.rest.append((SIDE.encode(), side.encode()))
        except asyncio.CancelledError:  # The client has gone.
            metrics.answered(model, "REST", side, GATEWAY_TIMEOUT, time.perf_counter() - started)
            raise
        metrics.answered(model, "REST", side, answer.code, time.perf_counter() - started)
        return answer

    def _over(self) -> float:
        """When a request that begins now has taken too long, however often it is sent; the event loop's time."""
        return asyncio.get_running_loop().time() + self._timeout_s

    async def _ask(
        self, method: str, target: str, headers: Any, content: bytes, *, predicts: bool, **how: bool
    ) -> Answer:
        """Has the servers answer a request.

        With `predicts` a server that lacks the model is passed over; `how` are the arguments of `Pool.ask`.
        """

        async def send(backend: Backend, fresh: bool) -> Attempt:
            try:
                answer = await self._send(backend, method, target, headers, content, fresh=fresh)
            except _NOT_SENT_AT_ALL as error:
                return Outcome.UNSENT, None, f"{backend.address.rest}: {error or type(error).__name__}"
            except _CUT_OFF as error:
                return Outcome.CUT, None, f"{backend.address.rest}: {error or type(error).__name__}"
            except (aiohttp.ClientError, ValueError) as error:
                refusal = _refusal(502, f"{backend.address.rest}: {error}")
                return Outcome.FAULT, refusal, str(error)
            outcome = _OUTCOMES.get(answer.code, Outcome.ANSWERED)
            if predicts and answer.code == HTTPStatus.NOT_FOUND:
                outcome = Outcome.ABSENT
            return outcome, answer, f"{backend.address.rest}: {answer.code}"

        _, answer, reason = await self._pool.ask(target, content, send, **how)
        return answer or _refusal(503, f"No model server answers: {reason}")

    async def _send(
        self, backend: Backend, method: str, target: str, headers: Any, content: bytes, *, fresh: bool
    ) -> Answer:
        url = URL(backend.address.rest + target, encoded=True)
        session = self._pool.fresh_session if fresh else self._pool.session
        with backend.counted_request():
            async with session.request(
                method, url, data=content or None, headers=headers, allow_redirects=False
            ) as response:
                body = await response.read()
                kept = [(name.lower(), value) for name, value in response.raw_headers]
                dropped = _NOT_ANSWERED | _of_the_connection(kept)
                kept = [header for header in kept if header[0] not in dropped]
                if method == "HEAD" and "content-length" in response.headers:
                    kept.append((b"content-length", response.headers["content-length"].encode()))
                return Answer(response.status, body, kept)


def _value(headers: Headers, name: bytes) -> bytes | None:
    return next((value for each, value in headers if each == name), None)


def _of_the_connection(headers: Headers) -> set[bytes]:
    """The headers that `Connection` names: they are for the next hop alone (RFC 9110, 7.6.1)."""
    return {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}


def _refusal(status: int, message: str) -> Answer:
    readable = message.encode("utf-8", "replace").decode()
    return Answer(status, orjson.dumps({"error": readable}), list(_JSON))
