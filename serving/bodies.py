"""Requests within limits: none larger than one may be, and all together leave the server its memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from serving.errors import Code, ServingError

Receive = Callable[[], Awaitable[dict[str, Any]]]


class Gone(Exception):
    """The client left before its request was whole."""


class Bodies:
    """The bodies that the server holds now, each from its arrival to its answer.

    Args:
      max_bytes: Of one.
      max_pending: Of all together, REST's and gRPC's; REST's that come in one piece are small and not counted.
    """

    FULL = "The requests that the server holds are larger than --max_pending_bytes allows; try again"

    def __init__(self, max_bytes: int, max_pending: int) -> None:
        self._max_bytes, self._max_pending = max_bytes, max_pending
        self.pending = 0

    def read(self, scope: dict[str, Any], receive: Receive) -> Body:
        """The body of one request, for an `async with` block that ends when it is answered."""
        return Body(self, scope, receive)

    def take(self, size: int, whole: int) -> None:
        """Counts another part of a body.

        Args:
          size: Its bytes.
          whole: Those of the body so far.

        Raises:
          ServingError: RESOURCE_EXHAUSTED, over one of the limits.
        """
        self.pending += size
        if whole > self._max_bytes:
            raise ServingError(Code.RESOURCE_EXHAUSTED, f"The request is larger than {self._max_bytes} bytes")
        if self.pending > self._max_pending:
            raise ServingError(Code.RESOURCE_EXHAUSTED, self.FULL)

    def give_back(self, size: int) -> None:
        """Counts bytes no longer."""
        self.pending -= size

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another byte."""
        return self.pending >= self._max_pending


class Body:
    """One of them; see `Bodies.read`."""

    __slots__ = ("_bodies", "_receive", "_scope", "_size")

    def __init__(self, bodies: Bodies, scope: dict[str, Any], receive: Receive) -> None:
        self._bodies, self._scope, self._receive = bodies, scope, receive
        self._size = 0

    async def __aenter__(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            self._bodies.take(0, len(message["body"]))
            return message["body"]
        try:
            return await self._rest(message)
        except BaseException:
            self._let_go()
            raise

    async def __aexit__(self, *unused: object) -> None:
        self._let_go()

    def _let_go(self) -> None:
        self._bodies.give_back(self._size)
        self._size = 0

    async def _rest(self, message: dict[str, Any]) -> bytes:
        parts = []
        # What a request says of itself is refused before any of it is kept; what it sends is counted all the same.
        self._bodies.take(0, _told(self._scope))
        while True:
            if message["type"] == "http.disconnect":
                raise Gone
            part = message["body"]
            parts.append(part)
            self._size += len(part)
            self._bodies.take(len(part), self._size)
            if not message.get("more_body"):
                return b"".join(parts)
            message = await self._receive()


def _told(scope: dict[str, Any]) -> int:
    """Content-Length; 0 where there is none."""
    return next((int(value) for name, value in scope["headers"] if name == b"content-length" and value.isdigit()), 0)
