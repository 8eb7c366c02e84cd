"""A model server and a router that follow their files at once: real HTTP, no models, counts as a test sets them."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from airtight.rollout import state
from components.modelling.served import versions_in
from serving.config import ModelSettings, models_from_file

_LABEL = re.compile(r"/v1/models/(\w+)/labels/(\w+)")
_VERSION = re.compile(r"/v1/models/(\w+)/versions/(\d+)(/metadata|:predict)")
_MODEL = re.compile(r"/v1/models/(\w+)")
_SIGNATURE = {"inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}]}}}}


class Artifacts:
    """Artifacts as a launcher would make them, each with a folder of its own.

    Args:
      folder: Where the folders lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, 0

    def new(self, kind: type) -> Any:
        """One more of a type."""
        self._made += 1
        made = kind()
        made.uri, made.id = str(self._folder / f"artifact{self._made}"), self._made
        Path(made.uri).mkdir(parents=True)
        return made


class StandIn:
    """Serves what `models.config` and `releases.json` in a folder say.

    Args:
      root: The models' root.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broken: set[int] = set()
        self.follows = True
        self.sides: dict[str, dict[str, Any]] = {}
        self.pairs: dict[str, Any] = {}
        self.url = ""

    def versions(self, model: str) -> dict[int, str]:
        """What is loaded, and what could not be."""
        entries = self._entries()
        if model not in entries:
            return {}
        there = versions_in(self.root / model)
        wanted = sorted(entries[model].policy.specific or there[-1:])
        return {number: "END" if number in self.broken else "AVAILABLE" for number in wanted if number in there}

    def labels(self, model: str) -> dict[str, int]:
        """Those of loaded versions."""
        entries = self._entries()
        loaded = [number for number, state in self.versions(model).items() if state == "AVAILABLE"]
        return {label: number for label, number in entries[model].labels.items() if number in loaded}

    def answer(self, path: str) -> tuple[int, Any]:
        """One request."""
        if path == "/router/status":
            followed = state.read(self.root) if self.follows else {}
            return 200, {"servers": [], "releases": {model: self._release(r) for model, r in followed.items()}}
        if found := _LABEL.fullmatch(path):
            number = self.labels(found[1]).get(found[2])
            return (200, self._states({number: "AVAILABLE"})) if number else (400, {"error": "no such label"})
        if found := _VERSION.fullmatch(path):
            if self.versions(found[1]).get(int(found[2])) != "AVAILABLE":
                return 404, {"error": "not loaded"}
            return 200, {"metadata": {"signature_def": {"signature_def": {"serving_default": _SIGNATURE}}}}
        found = _MODEL.fullmatch(path)
        versions = self.versions(found[1]) if found else {}
        return (200, self._states(versions)) if versions else (404, {"error": "unknown"})

    def _entries(self) -> dict[str, ModelSettings]:
        file = self.root / "models.config"
        return {entry.name: entry for entry in models_from_file(file)} if file.exists() else {}

    def _states(self, versions: dict[int, str]) -> dict[str, Any]:
        told = [
            {"version": str(n), "state": s, "status": {"error_code": "OK", "error_message": "no graph" * (s == "END")}}
            for n, s in versions.items()
        ]
        return {"model_version_status": told}

    def _release(self, release: state.Release) -> dict[str, Any]:
        told = asdict(release)
        sides = {
            name: {"version": getattr(release, name)} | self.sides.get(name, {}) for name in ("stable", "candidate")
        }
        return told | {"sides": sides, "pairs": self.pairs}


@contextlib.contextmanager
def standing_in(root: Path) -> Iterator[StandIn]:
    """Listens on a free port until the block ends."""
    stand_in = StandIn(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, told = stand_in.answer(self.path)
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()


def side(
    requests: int = 1000, failed: int = 0, refused: int = 0, p99: float = 5.0, mean: float = 0.21, **more: Any
) -> dict[str, Any]:
    """What the router says of a side whose answers are spread around a mean."""
    numbers = more.pop("numbers", requests - failed - refused)
    place = min(19, int(mean * 20))
    histogram = [0] * 20
    for distance, share in ((0, 0.6), (-1, 0.2), (1, 0.2)):
        histogram[min(19, max(0, place + distance))] += round(numbers * share)
    codes = {"200": requests - failed - refused, "500": failed, "400": refused}
    return {
        "requests": requests,
        "failed": failed,
        "refused": refused,
        "codes": {code: count for code, count in codes.items() if count},
        "latency_ms": {"mean": p99 / 3, "p50": p99 / 4, "p99": p99, "max": 2 * p99},
        "answers": {"count": numbers, "mean": mean if numbers else None, "histogram": histogram, "skipped": 0},
        **more,
    }
