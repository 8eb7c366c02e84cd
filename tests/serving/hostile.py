"""Clients that send what nobody should, from a seed, and tell what they were answered."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections import Counter
from random import Random

import grpc

from tests.serving.hostile_http import http_case, json_case
from tests.serving.hostile_protobufs import grpc_case


class Rest:
    """One REST client that keeps its connection while the server does.

    Args:
      port: The server's.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        for attempt in (1, 2):
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=120)
            try:
                self._socket.sendall(head + body)
                response = http.client.HTTPResponse(self._socket)
                response.begin()
                answer = response.read()
            except (ConnectionError, http.client.RemoteDisconnected):
                self.close()
                if attempt == 2:
                    raise
                continue
            if response.will_close:
                self.close()
            return response.status, answer
        raise AssertionError("the second attempt returns or raises")

    def close(self) -> None:
        """Ends the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def raw_answers(port: int, data: bytes, settle_s: float = 0.1) -> list[int]:
    """Sends bytes on a connection of its own, and reads until the server says no more for a moment.

    The sending side stays open: the server takes its end for the client's, and drops what it has not answered.

    Returns:
      The status of each answer.
    """
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as client:
        with contextlib.suppress(OSError):
            client.sendall(data)
        client.settimeout(settle_s)
        with contextlib.suppress(OSError):
            while part := client.recv(1 << 16):
                received += part
    lines = [line for line in received.split(b"\r\n") if b"HTTP/1.1 " in line]
    return [int(line.rpartition(b"HTTP/1.1 ")[2][:3]) for line in lines]


def fuzz_rest(port: int, count: int, seed: int) -> tuple[Counter[int], list[str]]:
    """Sends bodies; how many answers of each status, and the faults: those that are neither 200 nor 4xx."""
    random, client = Random(seed), Rest(port)
    seen: Counter[int] = Counter()
    faults: list[str] = []
    for _ in range(count):
        path, body = json_case(random)
        status, answer = client.post(path, body)
        seen[status] += 1
        payload = json.loads(answer) if answer else {}
        if not ((status == 200 and "error" not in payload) or (400 <= status < 500 and set(payload) == {"error"})):
            faults.append(f"{path} {body[:200]!r}: {status} {answer[:300]!r}")
    client.close()
    return seen, faults


def fuzz_http(port: int, count: int, seed: int) -> tuple[Counter[int], list[str]]:
    """Sends broken HTTP; the same. No answer at all is none: some of it is no request."""
    random = Random(seed)
    seen: Counter[int] = Counter()
    faults: list[str] = []
    for _ in range(count):
        data = http_case(random)
        statuses = raw_answers(port, data)
        seen.update(statuses or [0])
        faults += [f"{data[:200]!r}: {status}" for status in statuses if not (status < 500)]
    return seen, faults


REFUSALS = frozenset(
    {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
)


def fuzz_grpc(port: int, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Sends protobufs; how many answers of each code, and the faults: those that are neither OK nor a refusal."""
    random = Random(seed)
    seen: Counter[str] = Counter()
    faults: list[str] = []
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        for _ in range(count):
            method, data = grpc_case(random)
            try:
                channel.unary_unary(method)(data, timeout=120)
                code = "OK"
            except grpc.RpcError as error:
                code = error.code().name
                if code not in REFUSALS:
                    faults.append(f"{method} {data[:300]!r}: {code} {error.details()}")
            seen[code] += 1
    return seen, faults
