"""Versions come and go under constant load: what fails, what goes back, and what a swap costs those who wait.

`python -m benchmarks.swaps [--swaps 50] [--label_moves 20] [--rollbacks 5] [--model FOLDER --body FILE] [--json FILE]`,
with the checkout's root on PYTHONPATH.

Eight clients in a closed loop, half REST and half gRPC, each with a connection of its own; two of them ask by label.
A swap is a version that appears, a rollback the newest one that goes, a label move a change of the config file.
The model is small, or `--model`: a SavedModel, which every version is a copy of, with `--body`, a REST request to it.
During a swap is from the moment at which the folder appears or goes until the server has let the old version go.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow_serving.apis import predict_pb2

from benchmarks.swap_clients import LABEL, LABELLED, MODEL, Asking, Client, Processes, Threads
from tests.serving import models

SETTLE_S = 0.5
"""Between two changes: what is steady is measured there."""


@dataclass
class Change:
    """One swap, rollback or label move.

    Args:
      kind: Which of them.
      begun: When, monotonic seconds.
      ended: When the server was done with it.
      version: That is served afterwards.
    """

    kind: str
    begun: float
    ended: float
    version: int


class Trial:
    """A server, its models, and the changes.

    Args:
      folder: For everything that is written.
      model: A SavedModel to copy; None for the small one.
    """

    def __init__(self, folder: Path, model: Path | None) -> None:
        self.root, self._model, self._folder = folder / "models", model, folder
        self.config = folder / "models.config"
        self.changes: list[Change] = []
        self.server: models.Server

    def prepare(self, versions: int) -> None:
        """Makes all versions, those to come under names that the server ignores."""
        for name in (MODEL, LABELLED):
            (self.root / name).mkdir(parents=True)
        for number in range(1, versions + 1):
            self._write(self.root / MODEL / f"next-{number}", number)
        for number in (1, 2):
            self._write(self.root / LABELLED / str(number), number)
        (self.root / MODEL / "next-1").rename(self.root / MODEL / "1")
        self._label(1)

    def _write(self, folder: Path, number: int) -> None:
        if self._model is None:
            models.save_affine(folder, float(number))
        else:
            shutil.copytree(self._model, folder)

    def _label(self, version: int) -> None:
        text = f"""model_config_list {{
          config {{ name: "{MODEL}" base_path: "{self.root / MODEL}" }}
          config {{ name: "{LABELLED}" base_path: "{self.root / LABELLED}" model_version_policy {{ all {{}} }}
            version_labels {{ key: "{LABEL}" value: {version} }} }} }}"""
        temporary = self.config.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.rename(self.config)

    def swap(self, number: int) -> None:
        """A version appears."""
        begun = time.monotonic()
        (self.root / MODEL / f"next-{number}").rename(self.root / MODEL / str(number))
        self._await_only(number)
        self._changed("swap", begun, number)

    def rollback(self, number: int) -> None:
        """The newest version disappears."""
        begun = time.monotonic()
        (self.root / MODEL / str(number)).rename(self.root / MODEL / f"gone-{number}")
        self._await_only(number - 1)
        self._changed("rollback", begun, number - 1)

    def move_label(self, version: int) -> None:
        """The label goes to the other version."""
        begun = time.monotonic()
        self._label(version)
        path = f"/v1/models/{LABELLED}/labels/{LABEL}"
        while int(self.server.ask("GET", path)[1]["model_version_status"][0]["version"]) != version:  # type: ignore[index]
            _in_time(begun)
        self._changed("label move", begun, version)

    def _await_only(self, number: int) -> None:
        begun = time.monotonic()
        while True:
            states = self.server.states(MODEL)
            if states.get(number) == "AVAILABLE" and all(
                state in ("END", "AVAILABLE") and (state == "END" or other == number) for other, state in states.items()
            ):
                return
            _in_time(begun)

    def _changed(self, kind: str, begun: float, version: int) -> None:
        self.changes.append(Change(kind, begun, time.monotonic(), version))
        time.sleep(SETTLE_S)

    def run(self, swaps: int, label_moves: int, rollbacks: int) -> None:
        """All changes, one after the other; the label moves between the swaps."""
        moved = 0
        for index in range(swaps):
            self.swap(index + 2)
            while moved < label_moves * (index + 1) // swaps:
                moved += 1
                self.move_label(2 if moved % 2 else 1)
        for index in range(rollbacks):
            self.rollback(swaps + 1 - index)


def _in_time(begun: float, limit_s: float = 300.0) -> None:
    if time.monotonic() - begun > limit_s:
        raise SystemExit("the server did not follow")
    time.sleep(0.02)


def judge(clients: Sequence[Client], changes: Sequence[Change]) -> dict[str, Any]:
    """What the clients saw.

    Args:
      clients: The clients, done.
      changes: What happened, in order.

    Returns:
      `requests`, `failed` (in words), `backwards` (steps back that no rollback explains, in words), `labels` (versions
      that a label had), and for each protocol p50 and p99 in milliseconds, steady and during a swap or rollback.
    """
    back = {(change.version + 1, change.version) for change in changes if change.kind == "rollback"}
    backwards = [
        f"{client.protocol}: from {before.version} to {after.version}"
        for client in clients
        if not client.by_label
        for before, after in itertools.pairwise(client.answers)
        if after.version < before.version and not all((n + 1, n) in back for n in range(after.version, before.version))
    ]
    report: dict[str, Any] = {
        "requests": sum(len(client.answers) for client in clients),
        "failed": [failure for client in clients for failure in client.failures],
        "backwards": backwards,
        "labels": sorted({answer.version for client in clients if client.by_label for answer in client.answers} - {0}),
        "seconds_of_a_swap": _quantiles([change.ended - change.begun for change in changes if change.kind == "swap"]),
    }
    loads = [(change.begun, change.ended) for change in changes if change.kind != "label move"]
    for protocol in ("REST", "gRPC"):
        steady, during = [], []
        for answer in (answer for client in clients if client.protocol == protocol for answer in client.answers):
            overlaps = any(answer.at < ended and answer.at + answer.took > begun for begun, ended in loads)
            (during if overlaps else steady).append(1e3 * answer.took)
        report[protocol] = {"steady": _quantiles(steady), "during": _quantiles(during)}
        if steady and during:
            report[protocol]["p99_ratio"] = report[protocol]["during"]["p99"] / report[protocol]["steady"]["p99"]
    return report


def _quantiles(numbers: Sequence[float]) -> dict[str, float]:
    if not numbers:
        return {}
    p50, p99, largest = np.percentile(numbers, [50, 99, 100])
    return {"count": len(numbers), "p50": float(p50), "p99": float(p99), "max": float(largest)}


def trial(
    folder: Path,
    load: type[Processes] | type[Threads],
    counts: tuple[int, int, int],
    *,
    model: Path | None = None,
    body: bytes = b'{"instances": [1.0]}',
    request: predict_pb2.PredictRequest | None = None,
    count: int = 8,
) -> dict[str, Any]:
    """One run.

    Args:
      folder: An empty folder.
      load: Where the clients live.
      counts: Swaps, label moves and rollbacks.
      model: A SavedModel to copy; None for the small one.
      body: A REST request to it.
      request: The same for gRPC, without a model's name; None for the small one.
      count: Clients.

    Returns:
      As `judge`.
    """
    swaps, label_moves, rollbacks = counts
    run = Trial(folder, model)
    run.prepare(swaps + 1)
    polls = ("--file_system_poll_wait_seconds=0.1", "--model_config_file_poll_wait_seconds=0.1")
    with models.running(folder, f"--model_config_file={run.config}", *polls) as server:
        run.server = server
        newest, labelled = _requests(request)
        asking = Asking(server.rest, server.grpc, body, newest, labelled, model is None)
        clients_ = load(asking, count)
        with clients_:
            time.sleep(4 * SETTLE_S)
            run.run(swaps, label_moves, rollbacks)
        return judge(clients_.clients, run.changes)


def _requests(request: predict_pb2.PredictRequest | None) -> tuple[bytes, bytes]:
    if request is None:
        request = predict_pb2.PredictRequest()
        tensor = request.inputs["x"]
        tensor.dtype = 1  # DT_FLOAT
        tensor.tensor_shape.dim.add(size=1)
        tensor.float_val.append(1.0)
    request.model_spec.name = MODEL
    newest = request.SerializeToString()
    request.model_spec.name, request.model_spec.version_label = LABELLED, LABEL
    return newest, request.SerializeToString()


def _request_of(body: bytes, model: Path) -> predict_pb2.PredictRequest:
    """A REST request of one row or more in row format, as a PredictRequest."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((model / "saved_model.pb").read_bytes())
    inputs = saved.meta_graphs[0].signature_def["serving_default"].inputs
    rows = json.loads(body)["instances"]
    request = predict_pb2.PredictRequest()
    for name, info in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto([row[name] for row in rows], info.dtype))
    return request


def main() -> None:
    """Runs it and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--label_moves", type=int, default=20)
    parser.add_argument("--rollbacks", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model", type=Path, help="a SavedModel; the small one when not given")
    parser.add_argument("--body", type=Path, help="a REST request to it, in row format")
    parser.add_argument("--json", type=Path)
    flags = parser.parse_args()
    given: dict[str, Any] = {}
    if flags.model:
        body = flags.body.read_bytes()
        given = {"model": flags.model, "body": body, "request": _request_of(body, flags.model)}
    with tempfile.TemporaryDirectory(prefix="swaps-") as folder:
        counts = (flags.swaps, flags.label_moves, flags.rollbacks)
        report = trial(Path(folder), Processes, counts, count=flags.clients, **given)
    print(json.dumps(report, indent=1))
    if flags.json:
        flags.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
