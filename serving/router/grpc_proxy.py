"""The gRPC side of the router: bytes in, bytes out; a message is read only for its model's name and version."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from airtight.rollout.state import KEY_HEADER, SHADOW
from serving.errors import HTTP_STATUS
from serving.router import answers, messages, metrics
from serving.router.attempts import Outcome
from serving.router.backends import Backend
from serving.router.pool import Attempt, Pool
from serving.router.rest import MAX_ID, REQUEST_ID, SIDE, VERSION
from serving.router.trials import GATEWAY_TIMEOUT, STABLE, Answer, RoutedRequest, Trials

PREDICTION = "/tensorflow.serving.PredictionService/"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
METHODS = frozenset(
    {
        *(PREDICTION + name for name in (*messages.RELEASED, "GetModelMetadata")),
        "/tensorflow.serving.ModelService/GetModelStatus",
    }
)
"""What clients may ask. TensorFlow Serving has SessionService too, which its own server leaves out as well."""
READ_BYTES = 64 << 10
"""A larger request is not looked into for the metrics' sake."""

SHADOW_S = 30.0
"""A shadow request over gRPC has so long."""

_OUTCOMES = {
    # With these a server that ends turns calls away; a caller who cancels is heard by the router, not by its answer.
    grpc.StatusCode.UNAVAILABLE: Outcome.BUSY,
    grpc.StatusCode.CANCELLED: Outcome.BUSY,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Outcome.FULL,
    grpc.StatusCode.INTERNAL: Outcome.FAULT,
    grpc.StatusCode.UNKNOWN: Outcome.FAULT,
    grpc.StatusCode.DATA_LOSS: Outcome.FAULT,
}
_NOT_CONNECTED = re.compile(r"(?i)failed to connect|connection refused|no route to host|name resolution")
_CUT_OFF = re.compile(r"(?i)socket closed|connection reset|recvmsg|broken pipe|end of tcp stream|stream removed|goaway")
"""How gRPC's core words an UNAVAILABLE of its own; others are the server's."""

Metadata = list[tuple[str, str | bytes]]
_Handler = Callable[[bytes, Any], Awaitable[bytes]]
_OURS = frozenset({SIDE, VERSION, REQUEST_ID, "user-agent", "content-type", "te", "accept-encoding", "host"})


class GrpcRouter(grpc.GenericRpcHandler):
    """Answers gRPC calls of TensorFlow Serving's services.

    Args:
      pool: The servers.
      trials: The releases under way.
      admin: Whether models may be replaced (HandleReloadConfigRequest), which goes to all servers.
    """

    def __init__(self, pool: Pool, trials: Trials, *, admin: bool = False) -> None:
        self._pool = pool
        self._trials = trials
        self._handlers = {method: grpc.unary_unary_rpc_method_handler(self._handler(method)) for method in METHODS}
        self._handlers[RELOAD] = grpc.unary_unary_rpc_method_handler(self._handler(RELOAD) if admin else _not_here)

    def service(self, handler_call_details: Any) -> Any:
        """The handler of one method; None answers UNIMPLEMENTED."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, method: str) -> _Handler:
        released = method.removeprefix(PREDICTION) in messages.RELEASED

        async def handle(request: bytes, context: Any) -> bytes:
            sent, request_id = _sent(context)
            trailing: Metadata = []
            left = context.time_remaining()
            over = None if left is None else time.monotonic() + left
            if method == RELOAD:
                answer = await self._ask_all(method, request, sent, left)
            elif released:
                answer, trailing = await self._predict(method, request, sent, over)
            else:
                answer = await self._ask(method, request, sent, over)
            ending: _Ending = answer.rest
            trailer = (*ending.trailing, *trailing, (REQUEST_ID, request_id))
            if ending.initial:
                await context.send_initial_metadata(tuple(ending.initial))
            if ending.code is not grpc.StatusCode.OK:
                await context.abort(ending.code, ending.details, trailer)
            context.set_trailing_metadata(trailer)
            return answer.content

        return handle

    async def _predict(
        self, method: str, request: bytes, sent: Metadata, over: float | None
    ) -> tuple[Answer, Metadata]:
        started, side, model, free = time.perf_counter(), "", "", False
        name = method.removeprefix(PREDICTION)
        if self._trials.of or len(request) <= READ_BYTES:
            model, free = messages.requested_model(name, request)
        trial = self._trials.of.get(model) if free else None
        trailing: Metadata = []
        try:
            if trial is None:
                answer = await self._ask(method, request, sent, over)
            else:

                async def ask(version: int | None, chosen_side: str) -> Answer:
                    nonlocal side
                    if chosen_side != SHADOW:
                        side = chosen_side
                    if version is None:
                        return await self._ask(method, request, sent, over)
                    chosen = messages.with_version(name, request, version)
                    # Nobody waits for a shadow request: the caller's deadline is not its own.
                    until = time.monotonic() + SHADOW_S if chosen_side == SHADOW else over
                    # A fault of the version on trial says nothing of the server.
                    blame = chosen_side == STABLE
                    return await self._ask(
                        method, chosen, [*sent, (SIDE, chosen_side)], until, chosen=True, blame=blame
                    )

                versions = {"stable": trial.release.stable, "candidate": trial.release.candidate}
                key = next((value for key, value in sent if key == KEY_HEADER), None)
                routed = RoutedRequest(
                    key=key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else key,
                    ask=ask,
                    read=partial(answers.from_grpc, name),
                    size=len(request),
                )
                answer, side = await self._trials.answer(trial, routed)
                if side:
                    trailing = [(VERSION, str(versions[side])), (SIDE, side)]
        except asyncio.CancelledError:  # The caller's deadline is over, or it has gone.
            metrics.answered(model, "GRPC", side, GATEWAY_TIMEOUT, time.perf_counter() - started)
            raise
        metrics.answered(model, "GRPC", side, answer.code, time.perf_counter() - started)
        return answer, trailing

    async def _ask(
        self,
        method: str,
        request: bytes,
        sent: Metadata,
        over: float | None,
        *,
        chosen: bool = False,
        blame: bool = True,
    ) -> Answer:
        """Has the servers answer a request; the arguments at the end are those of `Pool.ask`."""
        predicts = method.removeprefix(PREDICTION) in messages.RELEASED

        async def send(backend: Backend, fresh: bool) -> Attempt:
            left = None if over is None else max(over - time.monotonic(), 0.0)
            answer = await _send(backend, method, request, sent, left)
            ending: _Ending = answer.rest
            outcome = _OUTCOMES.get(ending.code, Outcome.ANSWERED)
            if outcome is Outcome.BUSY and _NOT_CONNECTED.search(ending.details):
                outcome = Outcome.UNSENT
            elif outcome is Outcome.BUSY and _CUT_OFF.search(ending.details):
                outcome = Outcome.CUT
            elif predicts and ending.code is grpc.StatusCode.NOT_FOUND:
                outcome = Outcome.ABSENT
            return outcome, answer, f"{backend.address.grpc}: {ending.code.name}: {ending.details}"

        outcome, answer, reason = await self._pool.ask(method, request, send, chosen=chosen, blame=blame)
        if outcome is Outcome.BUSY:
            self._pool.doubt()  # It may be going away, or only busy: its health tells.
        return answer or Answer(503, b"", _Ending(grpc.StatusCode.UNAVAILABLE, reason, [], []))

    async def _ask_all(self, method: str, request: bytes, sent: Metadata, left: float | None) -> Answer:
        """Sends a request to every server; the first refusal is the answer."""
        replies = await asyncio.gather(
            *(_send(backend, method, request, sent, left) for backend in self._pool.backends)
        )
        return next((answer for answer in replies if answer.rest.code is not grpc.StatusCode.OK), replies[0])


async def _not_here(request: bytes, context: Any) -> bytes:
    await context.abort(
        grpc.StatusCode.PERMISSION_DENIED,
        "HandleReloadConfigRequest is answered on the router's administration port (--admin_grpc_port) alone",
    )
    raise AssertionError("abort raises")


@dataclass(frozen=True)
class _Ending:
    """What an answer has beside its message."""

    code: grpc.StatusCode
    details: str
    initial: Metadata
    trailing: Metadata


async def _send(backend: Backend, method: str, request: bytes, sent: Metadata, left: float | None) -> Answer:
    with backend.counted_request():
        call = backend.call(method)(request, timeout=left, metadata=tuple(sent))
        try:
            content = await call
        except grpc.aio.AioRpcError as error:
            initial, trailing = _kept(error.initial_metadata()), _kept(error.trailing_metadata())
            ending = _Ending(error.code(), error.details() or "", initial, trailing)
            return Answer(HTTP_STATUS[ending.code], b"", ending)
        initial, trailing = _kept(await call.initial_metadata()), _kept(await call.trailing_metadata())
        return Answer(HTTP_STATUS[grpc.StatusCode.OK], content, _Ending(grpc.StatusCode.OK, "", initial, trailing))


def _sent(context: Any) -> tuple[Metadata, str]:
    """The metadata to send on, with the request's id, and the id."""
    sent: Metadata = []
    request_id = ""
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID and 0 < len(value) <= MAX_ID:
            request_id = value
        elif key not in _OURS and not key.startswith(("grpc-", ":")):
            sent.append((key, value))
    request_id = request_id or os.urandom(16).hex()
    sent.append((REQUEST_ID, request_id))
    return sent, request_id


def _kept(metadata: Any) -> Metadata:
    """What a server tells beside its answer, less what belongs to the connection."""
    return [
        (key, value) for key, value in metadata or () if key != REQUEST_ID and not key.startswith((":", "grpc-acc"))
    ]
