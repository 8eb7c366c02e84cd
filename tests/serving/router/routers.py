"""A router process for the tests, what it tells, and load on it."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from airtight.rollout import state
from airtight.rollout.state import Release
from tests.serving.models import Server, listening
from tests.waiting import until

HTTP = "http://127.0.0.1"


class Router(Server):
    """A running router; `Server` has the ways to ask it."""

    root: Path
    admin_port: int
    admin_grpc: int

    @property
    def admin(self) -> Router:
        """The same router, asked on its administration port."""
        return Router(self.process, self.admin_port, self.admin_grpc)

    def status(self) -> dict:
        return self.admin.ask("GET", "/router/status")[1]

    def release(self, **releases: Release) -> None:
        """Writes `releases.json` and waits until the router follows it."""
        state.write(self.root, releases)

        def followed() -> bool:
            status = self.status()["releases"]
            return {model: (each["id"], each["share"]) for model, each in status.items()} == {
                model: (each.id, each.share) for model, each in releases.items()
            }

        until(followed, "the router follows the releases")

    def full(self, method: str, path: str, body: object = None, headers: dict | None = None):
        """One HTTP request: status, headers in lower case, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.rest, timeout=300)
        try:
            content = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
            connection.request(method, path, content, headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()


@contextlib.contextmanager
def routing(folder: Path, root: Path, addresses: list[tuple[int, int]], *flags: str) -> Iterator[Router]:
    """A router on free ports before servers at these REST and gRPC ports, until the block ends."""
    servers = [f"--server={HTTP}:{rest}=127.0.0.1:{grpc}" for rest, grpc in addresses]
    admin = ("--admin_port=0", "--admin_grpc_port=0")
    settings = (f"--models_root={root}", "--health_interval_seconds=0.2", *admin, *servers, *flags)
    with listening(folder, "serving.router", *settings) as (process, ports):
        router = Router(process, ports["rest_api_port"], ports["port"])
        router.root, router.admin_port, router.admin_grpc = root, ports["admin_port"], ports["admin_grpc_port"]
        yield router


class Load:
    """Clients that ask again and again until the block ends; `answers` holds what `ask` returned.

    Args:
      ask: Made anew for each client: `ask()` returns a function that asks once.
      clients: How many.
    """

    def __init__(self, ask: Callable[[], Callable[[], object]], clients: int = 3) -> None:
        self.answers: list[object] = []
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(ask,)) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Waits until so many more answers came."""
        reached = len(self.answers) + count
        until(lambda: len(self.answers) >= reached or bool(self.errors), f"{count} more answers")

    def _run(self, ask: Callable[[], Callable[[], object]]) -> None:
        try:
            once = ask()
            while not self._stop.is_set():
                self.answers.append(once())
        except BaseException as error:  # noqa: BLE001 - told by the test that looks at `errors`.
            self.errors.append(error)


def rest_client(port: int, path: str, body: object) -> Callable[[], Callable[[], object]]:
    """For `Load`: asks over one kept connection, answers status and parsed body."""

    def make() -> Callable[[], object]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

        def once() -> object:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())

        return once

    return make
