"""Bytes that are no message of the kind a method takes: INVALID_ARGUMENT, where gRPC by itself answers UNKNOWN."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving.errors import Code


class Registrar:
    """Takes the place of the server where generated code adds services to it.

    Args:
      server: Gets the services, each method with a reader that tells what it cannot read.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Adds services."""
        self._server.add_generic_rpc_handlers(tuple(_Service(handler) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: dict[str, grpc.RpcMethodHandler]) -> None:
        """What generated code adds in a second form too; the first one serves it."""


class _Service(grpc.GenericRpcHandler):
    def __init__(self, inner: grpc.GenericRpcHandler) -> None:
        self._inner = inner
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = handler_call_details.method
        known = self._handlers.get(method)
        if known is None:
            known = self._inner.service(handler_call_details)
            if known is None:
                return None  # Not kept: names that people make up are without end.
            if known.unary_unary is not None:
                known = grpc.unary_unary_rpc_method_handler(
                    _answering(known.unary_unary), _reading(known.request_deserializer), known.response_serializer
                )
            self._handlers[method] = known
        return known


def _reading(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def deserialize(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError as error:
            return error

    return deserialize


def _answering(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        if isinstance(request, DecodeError):
            await context.abort(Code.INVALID_ARGUMENT, f"The request cannot be read: {request}")
        return await method(request, context)

    return answer
