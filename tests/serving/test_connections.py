"""Clients that are slow, silent, greedy or too many lose their connection; the others get their answers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import select
import socket
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
import uvicorn
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from uvicorn.server import ServerState

from serving.config import settings_from_flags
from serving.connections import Limits, limited
from tests.serving import models

MAX_CONNECTIONS = 300
PREDICT = "/v1/models/m:predict"
HEAD = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\n"
LARGE = 15_000
"""Numbers in a request whose answer does not fit in a small socket buffer."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with short limits."""
    root = tmp_path_factory.mktemp("connections")
    (root / "m").mkdir()
    models.save_affine(root / "m" / "1", 2.0)
    with models.running(
        root,
        "--model_name=m",
        f"--model_base_path={root / 'm'}",
        "--rest_header_timeout_in_ms=1000",
        "--rest_body_timeout_in_ms=1000",
        "--rest_write_timeout_in_ms=1000",
        f"--max_connections={MAX_CONNECTIONS}",
        f"--max_request_bytes={64 << 20}",
        f"--max_pending_bytes={80 << 20}",
    ) as running:
        yield running


@contextlib.contextmanager
def connected(server: models.Server, *, window: int = 0):
    with socket.socket() as client:
        if window:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        client.settimeout(60)
        client.connect(("127.0.0.1", server.rest))
        yield client


def received(client: socket.socket) -> bytes:
    """All until the server ends the connection, however it does."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def answer_on(client: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    response = http.client.HTTPResponse(client)
    response.begin()
    return response.status, response.read()


def status_and_error(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize(
    "sent",
    [HEAD, "POST", f"{HEAD}Content-Length: 30\r\n\r\n{{", f"{HEAD}Transfer-Encoding: chunked\r\n\r\n1;x"],
    ids=["headers", "request line", "body", "chunk"],
)
def test_a_request_that_does_not_come_is_given_up(server, sent):
    with connected(server) as client:
        client.sendall(sent.encode())
        assert status_and_error(received(client)) == (408, "The request did not come in time")


def test_bytes_in_drips_do_not_prolong_a_request(server):
    with connected(server) as client:
        client.sendall(HEAD.encode())
        stop = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.05):
                    client.sendall(b"X-Drip: 1\r\n")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert received(client).startswith(b"HTTP/1.1 408 ")
        finally:
            stop.set()
            thread.join()


@pytest.mark.slow
def test_answers_that_nobody_reads_are_given_up(server):
    body = b'{"instances": [' + b"1," * 8000 + b"1]}"
    ask = f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with connected(server, window=2048) as client:
        # Whole requests alone, so that it is not for want of one that the connection ends; and more answers than the
        # kernel keeps.
        client.sendall(ask * 200)
        ended = select.poll()
        ended.register(client, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        assert ended.poll(60_000)
    assert server.ask("POST", PREDICT, {"instances": [1.0]})[0] == 200


def test_a_request_right_behind_another_is_answered_in_turn(server):
    body = b'{"instances": [1.0]}'
    ask = f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with connected(server) as client:
        client.sendall(ask * 50 + ask[:40])
        answers = received(client)
    assert answers.count(b"HTTP/1.1 200 OK") == 50
    assert answers.count(b'{"predictions":[2.0]}') == 50
    assert answers.count(b"HTTP/1.1 408 ") == 1


class Transport(asyncio.Transport):
    """Keeps what is written, and whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading, self.written = True, b""

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


def test_requests_that_are_sent_ahead_wait_at_the_client():
    async def run() -> None:
        go_on, transport = asyncio.Event(), Transport()

        async def app(scope, receive, send) -> None:
            await receive()
            await go_on.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

        connection = limited(Limits())(uvicorn.Config(app, log_config=None, ws="none"), ServerState(), {})
        connection.connection_made(transport)
        connection.data_received(f"{HEAD}Content-Length: 1\r\n\r\nx".encode() * 3)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not transport.reading
        go_on.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert transport.reading and transport.written.count(b"HTTP/1.1 200 ") == 3
        connection.connection_lost(None)

    asyncio.run(run())


@pytest.mark.parametrize(
    "sent",
    [HEAD + "X-Long: " + "x" * 100_000, HEAD + "X-Many: 1\r\n" * 20_000, "POST /" + "x" * 100_000],
    ids=["one header", "many headers", "address"],
)
def test_a_head_without_end_is_refused(server, sent):
    with connected(server) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent.encode())
        answer = received(client)
    assert not answer or answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")), answer


def test_trailers_without_end_are_refused(server):
    with connected(server) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\n".encode() + b"X-Trailer: 1\r\n" * 20_000)
        answer = received(client)
    assert not answer or answer.startswith(b"HTTP/1.1 400 "), answer


def test_over_the_limit_the_longest_idle_connection_makes_room(server):
    with contextlib.ExitStack() as held:
        clients = [held.enter_context(connected(server)) for _ in range(MAX_CONNECTIONS)]
        last = http.client.HTTPConnection("127.0.0.1", server.rest, timeout=60)
        last.request("POST", PREDICT, '{"instances": [1.0]}')
        assert last.getresponse().status == 200
        assert received(clients[0]) == b""
        clients[-1].sendall(b"GET /v1/models/m HTTP/1.0\r\n\r\n")
        assert received(clients[-1]).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(server):
    with connected(server) as client:
        client.sendall(f"{HEAD}Content-Length: {65 << 20}\r\n\r\n{{".encode())
        status, answer = answer_on(client)
    assert status == 429 and b"larger than 67108864 bytes" in answer


def test_bodies_are_refused_once_all_together_are_too_large(server):
    half = 50 << 20
    with connected(server) as first:
        first.sendall(f"{HEAD}Content-Length: {half + 1}\r\n\r\n".encode())
        first.sendall(b" " * half)
        second = http.client.HTTPConnection("127.0.0.1", server.rest, timeout=60)
        second.request("POST", PREDICT, b" " * half)
        response = second.getresponse()
        assert response.status == 429
        assert "that the server holds are larger" in json.loads(response.read())["error"]
        first.sendall(b" ")
        assert b"The document is empty" in answer_on(first)[1]
    # What was held is let go: now it is this body's turn.
    status, answer = server.ask("POST", PREDICT, b" " * half)
    assert (status, answer["error"]) == (400, "JSON Parse error: The document is empty")


class Others:
    """Two well-behaved clients, REST and gRPC, that ask all the time and keep what went wrong."""

    def __init__(self, server: models.Server) -> None:
        self.server, self.answers, self.failures = server, [0, 0], []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._rest), threading.Thread(target=self._grpc)]

    def __enter__(self) -> Others:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def go_on(self) -> None:
        """Waits until each has had ten more answers."""
        before, deadline = list(self.answers), time.monotonic() + 60
        while any(now < then + 10 for now, then in zip(self.answers, before, strict=True)) and not self.failures:
            assert time.monotonic() < deadline, "no answers"
            time.sleep(0.01)
        assert self.failures == []

    def _rest(self) -> None:
        body = b'{"instances": [1.0]}'
        # Whole at once: this process may take more than the server's limit between two parts of a request.
        whole = f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body
        with connected(self.server) as client:
            while not self._stop.is_set():
                try:
                    client.sendall(whole)
                    answer = answer_on(client)
                    if answer != (200, b'{"predictions":[2.0]}'):
                        self.failures.append(f"REST {answer}")
                    self.answers[0] += 1
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(repr(error))
                    return

    def _grpc(self) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{self.server.grpc}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not self._stop.is_set():
                try:
                    answer = stub.Predict(request([1.0]), timeout=60)
                    if list(answer.outputs["y"].float_val) != [2.0]:
                        self.failures.append(f"gRPC {answer}")
                    self.answers[1] += 1
                except grpc.RpcError as error:
                    self.failures.append(repr(error))


def request(numbers: object) -> predict_pb2.PredictRequest:
    proto = predict_pb2.PredictRequest()
    proto.model_spec.name = "m"
    proto.inputs["x"].CopyFrom(tf.make_tensor_proto(numbers, tf.float32))
    return proto


@pytest.mark.slow
def test_two_hundred_slow_clients_hurt_nobody_else(server):
    unread = json.dumps({"instances": [0.123] * LARGE}).encode()
    kinds = [
        HEAD.encode(),
        f"{HEAD}Content-Length: 100\r\n\r\n{{".encode(),
        f"{HEAD}Content-Length: {len(unread)}\r\n\r\n".encode() + unread,
        b"",
    ]
    with contextlib.ExitStack() as held, Others(server) as others:
        others.go_on()
        rest = [held.enter_context(connected(server, window=2048)) for _ in range(200)]
        for index, client in enumerate(rest):
            client.sendall(kinds[index % len(kinds)])
        silent = [held.enter_context(socket.create_connection(("127.0.0.1", server.grpc))) for _ in range(200)]
        for client in silent[:100]:
            client.sendall(b"PRI * HTTP/2.0\r\n")
        others.go_on()
        for client in rest[:2]:
            assert received(client).startswith(b"HTTP/1.1 408 ")
        others.go_on()


@pytest.mark.slow
def test_fifty_megabytes_are_answered_or_refused_and_the_others_go_on(server):
    numbers = np.full(13 << 20, 0.5, np.float32)  # 52 MiB in protobuf.
    text = b'{"inputs": [' + b"0.125, " * (50 * 10**6 // 7) + b"1]}"
    with (
        Others(server) as others,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc}", options=[("grpc.max_receive_message_length", -1)]) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert len(stub.Predict(request(numbers), timeout=120).outputs["y"].float_val) == len(numbers)
        others.go_on()
        with pytest.raises(grpc.RpcError) as refused:
            stub.Predict(request(np.full(17 << 20, 0.5, np.float32)), timeout=120)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        others.go_on()
        status, answer = server.ask("POST", PREDICT, text)
        assert (status, len(answer["outputs"])) == (200, 50 * 10**6 // 7 + 1)
        others.go_on()
        status, answer = server.ask("POST", PREDICT, text + b" " * (20 << 20))
        assert (status, answer["error"]) == (429, f"The request is larger than {64 << 20} bytes")
        others.go_on()


def test_the_limits_are_flags():
    flags = ["--models_root=x", "--rest_header_timeout_in_ms=2500", "--grpc_channel_arguments=grpc.a=1,grpc.b=c"]
    settings = settings_from_flags(flags)
    assert settings.limits.header_s == 2.5
    assert settings.grpc_channel_arguments == (("grpc.a", 1), ("grpc.b", "c"))
    with pytest.raises(SystemExit):
        settings_from_flags(["--models_root=x", "--grpc_channel_arguments=grpc.a"])
