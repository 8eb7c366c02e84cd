"""Requests within limits: none larger than one may be, and all together leave the server its memory."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from serving.errors import Code, ServingError, invalid

_GZIP = 16 + zlib.MAX_WBITS
_PIECE = 1 << 20
"""Bytes that are unpacked at once, which takes some milliseconds."""

_SLICE = 64 << 10
"""Bytes that are given to be unpacked."""

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

    def read(self, scope: dict[str, Any], receive: Receive, *, unpack: bool) -> Body:
        """The body of one request, for an `async with` block that ends when it is answered.

        With `unpack` a compressed one (gzip) is unpacked; the limits hold for what comes of it, too.
        """
        return Body(self, scope, receive, unpack)

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

    __slots__ = ("_bodies", "_receive", "_scope", "_size", "_unpack")

    def __init__(self, bodies: Bodies, scope: dict[str, Any], receive: Receive, unpack: bool) -> None:
        self._bodies, self._scope, self._receive, self._unpack = bodies, scope, receive, unpack
        self._size = 0

    async def __aenter__(self) -> bytes:
        body = await self._whole()
        encoding = _header(self._scope, b"content-encoding") if self._unpack else b""
        if not encoding:
            return body
        try:
            return await unpacked(body, encoding, self._take)
        except BaseException:
            self._let_go()
            raise

    def _take(self, size: int, whole: int) -> None:
        self._size += size
        self._bodies.take(size, whole)

    async def _whole(self) -> bytes:
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
        self._bodies.take(0, _content_length(self._scope))
        while True:
            if message["type"] == "http.disconnect":
                raise Gone
            part = message["body"]
            parts.append(part)
            self._take(len(part), self._size + len(part))
            if not message.get("more_body"):
                return b"".join(parts)
            message = await self._receive()


async def unpacked(body: bytes, encoding: bytes, take: Callable[[int, int], None]) -> bytes:
    """Undoes a body's `Content-Encoding`, piece by piece, so that neither memory nor other requests wait for a bomb.

    Args:
      body: As it came.
      encoding: The header's value.
      take: Called with each piece's bytes and those of all so far; raises where that is too much.

    Raises:
      ServingError: INVALID_ARGUMENT, another encoding than gzip, or no whole gzip; and what `take` raises.
    """
    if encoding.strip().lower() == b"identity":
        return body
    if encoding.strip().lower() not in (b"gzip", b"x-gzip"):
        raise invalid(f"Content-Encoding {encoding.decode('latin-1')!r} is not supported; send gzip, or none")
    pieces: list[bytes] = []
    view, at, whole, ended = memoryview(body), 0, 0, False
    stream = zlib.decompressobj(_GZIP)
    while at < len(body):
        # The stream copies what it is given and does not take: the rest of a slice, not that of the body.
        given = view[at : at + _SLICE]
        try:
            piece = stream.decompress(given, _PIECE)
        except zlib.error as error:
            raise invalid(f"The body is no gzip, though its Content-Encoding says so: {error}") from error
        pieces.append(piece)
        whole += len(piece)
        take(len(piece), whole)
        ended = stream.eof
        at += len(given) - len(stream.unused_data if ended else stream.unconsumed_tail)
        if ended:  # Another member may follow.
            stream = zlib.decompressobj(_GZIP)
        await asyncio.sleep(0)
    if not ended:
        raise invalid("The gzip body ends early")
    return b"".join(pieces)


def _content_length(scope: dict[str, Any]) -> int:
    """Content-Length; 0 where there is none."""
    value = _header(scope, b"content-length")
    return int(value) if value.isdigit() else 0


def _header(scope: dict[str, Any], wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")
