"""A model server and a router that follow their files at once: real HTTP, no models, counts as a test sets them."""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from airtight.rollout import state
from airtight.rollout.arm_metrics import FORMAT
from components.modelling.served import versions_in
from serving.config import ModelSettings, models_from_file
from serving.router.arm_metrics import Arm

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
        self.models: dict[str, Any] = {}
        self.format = FORMAT
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
            under_way = {model: self._release(release) for model, release in followed.items()}
            return 200, {"servers": [], "releases": under_way, "models": self.models}
        if match := _LABEL.fullmatch(path):
            number = self.labels(match[1]).get(match[2])
            return (200, self._states({number: "AVAILABLE"})) if number else (400, {"error": "no such label"})
        if match := _VERSION.fullmatch(path):
            if self.versions(match[1]).get(int(match[2])) != "AVAILABLE":
                return 404, {"error": "not loaded"}
            return 200, {"metadata": {"signature_def": {"signature_def": {"serving_default": _SIGNATURE}}}}
        match = _MODEL.fullmatch(path)
        versions = self.versions(match[1]) if match else {}
        return (200, self._states(versions)) if versions else (404, {"error": "unknown"})

    def _entries(self) -> dict[str, ModelSettings]:
        file = self.root / "models.config"
        return {entry.name: entry for entry in models_from_file(file)} if file.exists() else {}

    def _states(self, versions: dict[int, str]) -> dict[str, Any]:
        statuses = [
            {"version": str(n), "state": s, "status": {"error_code": "OK", "error_message": "no graph" * (s == "END")}}
            for n, s in versions.items()
        ]
        return {"model_version_status": statuses}

    def _release(self, release: state.Release) -> dict[str, Any]:
        sides = {
            name: self.sides.get(name, {}) | {"version": getattr(release, name)} for name in ("stable", "candidate")
        }
        return asdict(release) | {"format": self.format, "sides": sides, "pairs": self.pairs}


@contextlib.contextmanager
def standing_in(root: Path) -> Iterator[StandIn]:
    """Listens on a free port until the block ends."""
    stand_in = StandIn(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, payload = stand_in.answer(self.path)
            body = json.dumps(payload).encode()
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
    requests: int = 1000, failed: int = 0, refused: int = 0, slow: float = 5.0, mean: float = 0.21, **more: Any
) -> dict[str, Any]:
    """What the router says of an arm: a tenth of its requests take `slow` milliseconds, answers lie around a mean.

    `not_finite` answers hold NaN; what else is given replaces the router's own.
    """
    arm, answered = Arm(), requests - failed - refused
    for number in range(requests):
        code = 200 if number < answered else 500 if number < answered + failed else 400
        arm.traffic.add(code, 1.0 if number % 10 else slow)
    for number in range(answered):
        not_finite = number < more.get("not_finite", 0)
        arm.numbers.add([math.nan if not_finite else mean + (0.0, 0.0, 0.0, -0.05, 0.05)[number % 5]])
    more.pop("not_finite", None)
    return arm.as_dict(0) | more
