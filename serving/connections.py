"""HTTP connections with limits: whoever holds one and gives or takes nothing loses it; other clients notice nothing.

uvicorn has a limit for the pause between two requests alone. Here are the others: for a request's head and body, for an
answer that is not read, and for the number of connections. One look a second at all connections does it, so that a
request pays for no timer.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import logging
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

logger = logging.getLogger(__name__)

MIN_RATE = 16 << 10
"""Bytes a second: large bodies and answers have more time than small ones, by this measure."""
TASK, GONE = "airtight.task", "airtight.gone"
"""Keys of an ASGI scope: the task that is to be cancelled when the client leaves, and that it left."""
MAX_HEAD_BYTES = 64 << 10
"""Request line and headers, and a chunked body's trailers."""

_numbers = itertools.count()
_REASONS = {408: b"Request Timeout", 431: b"Request Header Fields Too Large", 503: b"Service Unavailable"}


@dataclass(frozen=True)
class Limits:
    """What one connection may take; the names are those of the flags.

    Args:
      max_connections: So many at once; over that, the one that has waited longest for its client makes room.
      header_s: From a request's first byte to the end of its headers.
      body_s: From there to the end of its body, plus a second for each `MIN_RATE` bytes that came.
      write_s: For an answer to be read, plus a second for each `MIN_RATE` bytes of it.
      keep_alive_s: Between two requests, and before the first.
    """

    max_connections: int = 1000
    header_s: float = 10.0
    body_s: float = 30.0
    write_s: float = 30.0
    keep_alive_s: float = 75.0


class _Phase(enum.Enum):
    IDLE = enum.auto()  # No request has begun.
    HEAD = enum.auto()
    BODY = enum.auto()
    WHOLE = enum.auto()  # The request is here; what takes time now is the server.


class _Flow(FlowControl):
    """Reads on only when no request waits behind the one that is answered.

    uvicorn reads on whenever a request asks for its body, so that a client that sends ahead fills the server's memory.
    With a request behind it the one in front is whole: it has nothing to wait for.
    """

    def __init__(self, transport: Any, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """One connection; `limits` is given by `limited`."""

    limits = Limits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase, self._since = _Phase.IDLE, self.loop.time()
        self._head_bytes = self._body_bytes = 0
        self._unsent_since: float | None = None
        self._unsent = 0
        self._running: RequestResponseCycle | None = None
        self._number = next(_numbers)  # The loop's clock stands still while it accepts several.

    def connection_made(self, transport: Any) -> None:
        """A client connects; over the limit, another connection makes room, or this one is refused."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        if len(self.connections) <= self.limits.max_connections:
            return
        # Who is in the middle of its headers, then who has been idle longest: nobody who waits for an answer.
        waiting = [
            other
            for other in self.connections
            if isinstance(other, Connection)
            and other is not self
            and other._phase in (_Phase.IDLE, _Phase.HEAD)
            and not other._answering()
            and not other.transport.is_closing()
        ]
        if waiting:
            min(waiting, key=Connection._rank)._abort()
        else:
            self._refuse(503, "The server has too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, by whomever."""
        self._tell_gone()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, or of several."""
        super().data_received(data)
        if self._phase is _Phase.HEAD:
            self._count_head(len(data))

    def resume_writing(self) -> None:
        """The client has read most of what waited for it."""
        super().resume_writing()
        self._unsent_since = None

    def on_message_begin(self) -> None:
        """The parser saw a request's first byte."""
        super().on_message_begin()
        self._enter(_Phase.HEAD)
        self._head_bytes = self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, or one trailer after a chunked body."""
        if self._phase is _Phase.BODY:
            self._head_bytes += len(name) + len(value)
            if self._head_bytes > MAX_HEAD_BYTES:
                raise ValueError("too many trailers")  # The parser turns it into a 400.
            return  # Nobody looks at trailers.
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request starts, or waits for the one before it."""
        super().on_headers_complete()
        self._enter(_Phase.BODY)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        super().on_message_complete()
        self._enter(_Phase.IDLE if self.cycle.response_complete else _Phase.WHOLE)

    def on_response_complete(self) -> None:
        """An answer is written, though perhaps not yet sent."""
        super().on_response_complete()
        if self._phase is _Phase.WHOLE and self.cycle.response_complete:
            self._enter(_Phase.IDLE)

    def look(self, now: float) -> None:
        """Ends the connection when its client has taken too long.

        Args:
          now: The event loop's time, seconds.
        """
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            self._unsent_since = None
        elif self._unsent_since is None:
            self._unsent_since, self._unsent = now, unsent
        elif now - self._unsent_since > self.limits.write_s + self._unsent / MIN_RATE:
            self._abort()
        if self.transport.is_closing():
            return
        if self.flow.read_paused or (self._phase is _Phase.HEAD and self._answering()):
            self._since = now  # It is the server that does not read on, or that is busy with the request before.
        elif self._late(now - self._since):
            if self._phase is _Phase.IDLE or (self._phase is _Phase.BODY and self.cycle.response_started):
                self.transport.close()
            else:
                self._refuse(408, "The request did not come in time")

    def _rank(self) -> tuple[bool, float, int]:
        return self._phase is not _Phase.HEAD, self._since, self._number

    def _late(self, passed: float) -> bool:
        limits = self.limits
        if self._phase is _Phase.BODY:
            # A body whose answer is out already, such as one that is too large, is read to its end only for a while.
            answered = self.cycle.response_complete
            return passed > limits.body_s + (0 if answered else self._body_bytes / MIN_RATE)
        if self._phase is _Phase.WHOLE:
            return False
        return passed > (limits.header_s if self._phase is _Phase.HEAD else limits.keep_alive_s)

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _tell_gone(self) -> None:
        # uvicorn tells the request that came last; where several wait in line it is another one that is being answered.
        cycle = self._running
        if cycle is None or cycle.disconnected:
            return
        cycle.disconnected = True
        scope = cast(dict[str, Any], cycle.scope)
        if TASK in scope and not cycle.response_complete:
            scope[GONE] = True
            scope[TASK].cancel()

    def _abort(self) -> None:
        self._tell_gone()  # Now, as a write between this and `connection_lost` would raise.
        self.transport.abort()

    def _enter(self, phase: _Phase) -> None:
        self._phase, self._since = phase, self.loop.time()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"A request's head may have {MAX_HEAD_BYTES} bytes")

    def _refuse(self, status: int, message: str) -> None:
        body = b'{"error": "%s"}' % message.encode()
        self.transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
            % (status, _REASONS[status], len(body), body)
        )
        self.transport.close()


def limited(limits: Limits) -> type[Connection]:
    """The protocol for uvicorn, with these limits."""
    return type("Connection", (Connection,), {"limits": limits})


class HttpServer(uvicorn.Server):
    """uvicorn that looks at its connections, and without signal handlers: REST and gRPC are stopped together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to whoever started the server."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, by uvicorn."""
        if counter % 10 == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    try:
                        connection.look(connection.loop.time())
                    except Exception:  # One connection is not to stop the clock of all.
                        logger.exception("A connection could not be looked at")
        return await super().on_tick(counter)
