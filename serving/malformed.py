"""What every gRPC method does with its request before it reads it: within the limits of memory, and a message at all.

Bytes that are no message of the kind a method takes are INVALID_ARGUMENT, where gRPC by itself answers UNKNOWN. The
messages that the server holds are counted with REST's bodies, each from its arrival to its answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving.bodies import Bodies
from serving.errors import Code, ServingError

BOUNDED = "/tensorflow.serving.PredictionService/"
"""The methods whose messages may be large."""


class Registrar:
    """Takes the place of the server where generated code adds services to it.

    Args:
      server: Gets the services, each method with a reader that tells what it cannot read.
      bodies: Counts what the messages take.
    """

    def __init__(self, server: grpc.aio.Server, bodies: Bodies) -> None:
        self._server = server
        self._bodies = bodies

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Adds services."""
        self._server.add_generic_rpc_handlers(tuple(_Service(handler, self._bodies) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: dict[str, grpc.RpcMethodHandler]) -> None:
        """What generated code adds in a second form too; the first one serves it."""


class _Service(grpc.GenericRpcHandler):
    def __init__(self, inner: grpc.GenericRpcHandler, bodies: Bodies) -> None:
        self._inner = inner
        self._bodies = bodies
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method
        if self._bodies.is_full and method.startswith(BOUNDED):
            return _UNREAD
        known = self._handlers.get(method)
        if known is None:
            known = self._inner.service(handler_call_details)
            if known is None:
                return None  # Not kept: names that people make up are without end.
            if known.unary_unary is not None:
                # The message is read by the handler: what is counted by a reader would stay so where no handler runs.
                answer = _answering(known.unary_unary, known.request_deserializer, self._bodies)
                known = grpc.unary_unary_rpc_method_handler(answer, None, known.response_serializer)
            self._handlers[method] = known
        return known


def _answering(
    method: Callable[[Any, Any], Awaitable[Any]], read: Callable[[bytes], Any], bodies: Bodies
) -> Callable[[bytes, Any], Awaitable[Any]]:
    async def answer(data: bytes, context: grpc.aio.ServicerContext) -> Any:
        size = len(data)
        try:
            bodies.take(size, size)
            request = read(data)
        except ServingError as error:
            bodies.give_back(size)
            await context.abort(error.code, error.message)
        except DecodeError as error:
            bodies.give_back(size)
            await context.abort(Code.INVALID_ARGUMENT, f"The request cannot be read: {error}")
        try:
            return await method(request, context)
        finally:
            bodies.give_back(size)

    return answer


async def _refuse(messages: Any, context: grpc.aio.ServicerContext) -> None:
    await context.abort(Code.RESOURCE_EXHAUSTED, Bodies.FULL)


_UNREAD = grpc.stream_unary_rpc_method_handler(_refuse)
"""Takes a stream of messages, which a single one is on the wire, and reads none."""
