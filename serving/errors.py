"""What a request can meet: one exception with a gRPC code, and one table from gRPC codes to HTTP."""

from __future__ import annotations

import grpc

Code = grpc.StatusCode

HTTP_STATUS: dict[grpc.StatusCode, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.UNAUTHENTICATED: 401,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
}
"""TensorFlow Serving's mapping."""

BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in Code}
"""Canonical codes by number, as TensorFlow's own errors carry them."""

MAX_MESSAGE = 4096
"""A message travels in HTTP/2 headers, which are limited: longer ones are cut. A byte beyond ASCII takes up three."""


class ServingError(Exception):
    """A refusal or a fault, as the client sees it.

    Args:
      code: The gRPC status code; `HTTP_STATUS` gives the HTTP one.
      message: What is wrong and where, in TensorFlow Serving's words where it has any.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.code = code
        self.message = _cut(message)
        super().__init__(self.message)


def _cut(message: str) -> str:
    limit = MAX_MESSAGE if message.isascii() else MAX_MESSAGE // 3
    encoded = message.encode("utf-8", "surrogatepass")
    return message if len(encoded) <= limit else f"{encoded[:limit].decode('utf-8', 'ignore')}..."


def invalid(message: str) -> ServingError:
    """An INVALID_ARGUMENT (HTTP 400)."""
    return ServingError(Code.INVALID_ARGUMENT, message)
