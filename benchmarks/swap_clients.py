"""Clients in a closed loop, over REST and gRPC, by a model's newest version and by a label; they keep every answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from tensorflow_serving.apis import predict_pb2

MODEL, LABELLED, LABEL = "m", "labelled", "stable"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
PER_PROCESS = 4


@dataclass
class Answer:
    """One answer.

    Args:
      at: When it was asked for, seconds of the machine's monotonic clock.
      took: Seconds.
      version: That answered; 0 where REST does not tell.
    """

    at: float
    took: float
    version: int


@dataclass
class Client:
    """One closed loop and what came of it.

    Args:
      protocol: "REST" or "gRPC".
      by_label: It asks for a label instead of a model's newest version.
    """

    protocol: str
    by_label: bool
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self, asking: Asking, stopped: Callable[[], bool]) -> None:
        """Asks until it is stopped."""
        loop = self._rest if self.protocol == "REST" else self._grpc
        with loop(asking) as ask:
            while not stopped():
                at = time.monotonic()
                try:
                    version = ask()
                except (OSError, http.client.HTTPException, grpc.RpcError, ValueError) as error:
                    self.failures.append(f"{self.protocol}: {error!r}"[:500])
                    time.sleep(0.01)
                else:
                    self.answers.append(Answer(at, time.monotonic() - at, version))

    @contextlib.contextmanager
    def _rest(self, asking: Asking) -> Iterator[Callable[[], int]]:
        connection = http.client.HTTPConnection("127.0.0.1", asking.rest, timeout=60)
        path = f"/v1/models/{LABELLED}/labels/{LABEL}:predict" if self.by_label else f"/v1/models/{MODEL}:predict"

        def ask() -> int:
            connection.request("POST", path, asking.body)
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise ValueError(f"{response.status} {answer[:300]!r}")
            return int(json.loads(answer)["predictions"][0]) if asking.tells else 0

        yield ask
        connection.close()

    @contextlib.contextmanager
    def _grpc(self, asking: Asking) -> Iterator[Callable[[], int]]:
        data = asking.labelled if self.by_label else asking.newest
        with grpc.insecure_channel(f"127.0.0.1:{asking.grpc}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            call = channel.unary_unary(PREDICT, response_deserializer=predict_pb2.PredictResponse.FromString)
            yield lambda: call(data, timeout=60).model_spec.version.value


@dataclass(frozen=True)
class Asking:
    """What is asked, and where.

    Args:
      rest: REST port.
      grpc: gRPC port.
      body: A REST request.
      newest: The same as a PredictRequest in bytes.
      labelled: The same by label.
      tells: The answer to `body` is the version's number.
    """

    rest: int
    grpc: int
    body: bytes
    newest: bytes
    labelled: bytes
    tells: bool


def clients(count: int) -> list[Client]:
    """So many, of both protocols in turn; the last two ask by label."""
    return [Client("REST" if index % 2 else "gRPC", index >= count - 2) for index in range(count)]


def loop(group: Sequence[Client], asking: Asking, stopped: Callable[[], bool]) -> list[Client]:
    """Runs clients in threads of this process until they are stopped."""
    threads = [threading.Thread(target=client.run, args=(asking, stopped)) for client in group]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return list(group)


class Processes:
    """The load in processes of its own, four clients each, so that it shares no interpreter with who measures."""

    def __init__(self, asking: Asking, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, self._results = context.Event(), context.Queue()
        everyone = clients(count)
        groups = [everyone[start : start + PER_PROCESS] for start in range(0, count, PER_PROCESS)]
        self._processes = [
            context.Process(target=_process, args=(group, asking, self._stop, self._results)) for group in groups
        ]

    def __enter__(self) -> Processes:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        groups = [self._results.get(timeout=300) for _ in self._processes]
        self.clients: list[Client] = [client for group in groups for client in group]
        for process in self._processes:
            process.join()


class Threads:
    """The load in threads of this process, for a short trial."""

    def __init__(self, asking: Asking, count: int) -> None:
        self._stop = threading.Event()
        self.clients = clients(count)
        self._thread = threading.Thread(target=loop, args=(self.clients, asking, self._stop.is_set))

    def __enter__(self) -> Threads:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        self._thread.join()


def _process(group: list[Client], asking: Asking, stop: Any, results: Any) -> None:
    results.put(loop(group, asking, stop.is_set))
