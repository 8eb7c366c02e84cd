"""A load generator for closed loops: one process, one epoll, requests whose bytes are made beforehand.

Python's own HTTP and gRPC clients cost more than the servers that they are to measure. Here a request is one `send`,
and of an answer only what frames it is read, so that a core drives tens of thousands of requests a second; the floor
in `benchmarks.serving` (a server that does nothing) says how many.
"""

from __future__ import annotations

import re
import selectors
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

# HTTP/2 (RFC 9113): what the client below sends and looks at.
_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_MAX = 16384
_ALL = 2**31 - 1


class Client(ABC):
    """One connection with one request at a time.

    Args:
      port: Where the server listens on the loopback.
    """

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent = 0.0
        self.answer = b""

    @abstractmethod
    def send(self) -> None:
        """Sends the request."""

    @abstractmethod
    def receive(self) -> bool:
        """Reads what has arrived; whether the answer is whole, which is then in `answer`."""


class HttpClient(Client):
    """POSTs the same body again and again over one connection that is kept.

    Args:
      port: Where the server listens.
      path: Of the request.
      body: JSON.
    """

    def __init__(self, port: int, path: str, body: bytes) -> None:
        super().__init__(port)
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._got = b""

    def send(self) -> None:
        """Sends the request."""
        self.socket.sendall(self._request)

    def receive(self) -> bool:
        """Reads what has arrived; whether the answer is whole."""
        part = self.socket.recv(1 << 20)
        if not part:
            raise SystemExit("the server closed the connection")
        got = self._got = self._got + part if self._got else part
        end = got.find(b"\r\n\r\n")
        if end < 0:
            return False
        length = _LENGTH.search(got, 0, end)
        if length is None or not got.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the server answered: {got[:400]!r}")
        if len(got) < end + 4 + int(length[1]):
            return False
        self.answer, self._got = got[end + 4 :], b""
        return True


class GrpcClient(Client):
    """Calls one unary method again and again, each call a new stream of one HTTP/2 connection.

    Args:
      port: Where the server listens.
      path: "/package.Service/Method".
      message: The request, serialized.
    """

    def __init__(self, port: int, path: str, message: bytes) -> None:
        super().__init__(port)
        names = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", f"127.0.0.1:{port}".encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        # Literals that are not indexed, as every HPACK decoder reads them.
        self._head = b"".join(b"\x00" + _text(name) + _text(value) for name, value in names)
        self._body = struct.pack(">BI", 0, len(message)) + message
        self._stream = -1
        self._window, self._unsent = 65535, False
        self._got = b""
        self._parts: list[bytes] = []
        # The server may send as much as it likes; this end never holds it up.
        settings = struct.pack(">HI", 4, _ALL)
        self.socket.sendall(
            _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, struct.pack(">I", _ALL - 65535))
        )

    def send(self) -> None:
        """Opens a stream with the request, now or as soon as the server takes as much."""
        self._stream += 2
        self._parts = []
        self._unsent = True
        self._send()

    def _send(self) -> None:
        body, stream = self._body, self._stream
        if self._window < len(body):  # The connection's; each stream has a new one, which is as large.
            return
        self._window -= len(body)
        self._unsent = False
        frames = [_frame(_HEADERS, _END_HEADERS, stream, self._head)]
        for start in range(0, len(body), _FRAME_MAX):
            last = start + _FRAME_MAX >= len(body)
            frames.append(_frame(_DATA, _END_STREAM if last else 0, stream, body[start : start + _FRAME_MAX]))
        self.socket.sendall(b"".join(frames))

    def receive(self) -> bool:
        """Reads what has arrived; whether the answer is whole."""
        if not self._read():
            return False
        whole = b"".join(self._parts)
        if len(whole) < 5 or whole[0] or int.from_bytes(whole[1:5], "big") != len(whole) - 5:
            raise SystemExit("the server answered with an error")
        self.answer = whole[5:]
        return True

    def _read(self) -> bool:
        """Reads frames; whether the answer's last was among them."""
        part = self.socket.recv(1 << 20)
        if not part:
            raise SystemExit("the server closed the connection")
        got, at, ended = self._got + part, 0, False
        while len(got) >= at + 9:
            size, kind, flags = int.from_bytes(got[at : at + 3], "big"), got[at + 3], got[at + 4]
            stop = at + 9 + size
            if len(got) < stop:
                break
            if kind == _DATA:
                self._parts.append(got[at + 9 : stop])
            elif kind == _WINDOW and got[at + 5 : at + 9] == bytes(4):
                self._window += int.from_bytes(got[at + 9 : stop], "big")
            elif (kind == _SETTINGS and not flags & _ACK) or (kind == _PING and not flags & _ACK):
                self.socket.sendall(_frame(kind, _ACK, 0, got[at + 9 : stop] if kind == _PING else b""))
            elif kind in (_RST, _GOAWAY):
                raise SystemExit(f"the server refused the call: {got[at:stop]!r}")
            ended = ended or (kind in (_DATA, _HEADERS) and bool(flags & _END_STREAM))
            at = stop
        self._got = got[at:]
        if self._unsent:
            self._send()
        return ended


def closed_loop(clients: Sequence[Client], seconds: float, warm_up_s: float) -> np.ndarray:
    """Lets each client send its next request when it has the answer to the last.

    Args:
      clients: Connected, with nothing under way.
      seconds: How long, after the warm-up.
      warm_up_s: What comes before is not counted.

    Returns:
      Latencies in seconds of the requests that were sent after the warm-up and answered before the end.
    """
    latencies: list[float] = []
    now = time.perf_counter
    with selectors.EpollSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.sent = now()
            client.send()
        begin = now() + warm_up_s
        end = begin + seconds
        under_way = len(clients)
        while under_way:
            for key, _ in selector.select(30.0) or _silent():
                client = key.data
                if not client.receive():
                    continue
                time_now = now()
                if begin <= client.sent and time_now <= end:
                    latencies.append(time_now - client.sent)
                if time_now >= end:
                    under_way -= 1
                    continue
                client.sent = time_now
                client.send()
    return np.array(latencies)


def _silent() -> list:
    raise SystemExit("the server has not answered for 30 s")


def _text(value: bytes) -> bytes:
    assert len(value) < 127  # One byte says how long it is.
    return bytes([len(value)]) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload
