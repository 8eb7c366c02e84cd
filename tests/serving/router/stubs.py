"""A scripted server in place of a model server: it tells what it was sent, waits, or hangs up."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from grpc_health.v1 import health_pb2


class Stub:
    """Ports of the scripted server, and what it was asked for over REST.

    Args:
      rest: REST port.
      grpc: gRPC port.
    """

    def __init__(self, rest: int, grpc: int) -> None:
        self.rest, self.grpc = rest, grpc
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.metadata: list[dict[str, str]] = []


@contextlib.contextmanager
def standing(
    answer: Callable[[BaseHTTPRequestHandler, bytes], None] | None = None, refuse: grpc.StatusCode | None = None
) -> Iterator[Stub]:
    """A server that answers a POST by `answer` or with the headers that it got, and a call by `refuse` or itself."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.reply({})

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            stub.requests.append((self.path, headers))
            if answer is None:
                self.reply(headers)
            else:
                answer(self, body)

        def reply(self, payload: object, status: int = 200) -> None:
            content = json.dumps(payload).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *unused):
            pass

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *unused):
            pass

    class Calls(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(self.health if "Health" in details.method else self.echo)

        def health(self, request, context):
            return health_pb2.HealthCheckResponse(status="SERVING").SerializeToString()

        def echo(self, request, context):
            metadata = {**dict(context.invocation_metadata()), "time-remaining": str(context.time_remaining())}
            stub.metadata.append(metadata)
            if refuse is not None:
                context.abort(refuse, "turned away")
            context.set_trailing_metadata((("x-told", "yes"),))
            return request

    listener = Listener(("127.0.0.1", 0), Handler)
    assert isinstance(listener, socketserver.BaseServer)
    calls = grpc.server(futures.ThreadPoolExecutor(4))
    calls.add_generic_rpc_handlers((Calls(),))
    stub = Stub(listener.server_address[1], calls.add_insecure_port("127.0.0.1:0"))
    calls.start()
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield stub
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
        calls.stop(0).wait()
