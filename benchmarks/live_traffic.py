"""Requests to the router all the time, in a thread, and what came of them."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx


class Traffic:
    """A client that asks for a prediction of one row after the other.

    Args:
      url: The router's REST address.
      model: The model.
      rows: The rows to ask about, in turns; may be exchanged meanwhile.
      a_second: Requests a second at most.
    """

    def __init__(self, url: str, model: str, rows: Sequence[dict[str, Any]], a_second: float) -> None:
        self.rows = rows
        self.counts: Counter[str] = Counter()
        """Requests by outcome: "answered", "not finite", or what failed."""
        self._http = httpx.Client(base_url=url, timeout=30)
        self._path = f"/v1/models/{model}:predict"
        self._pause = 1 / a_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        place, due = 0, time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + self._pause, time.monotonic())
            self.counts[self._outcome(self.rows[place % len(self.rows)])] += 1
            place += 1

    def _outcome(self, row: dict[str, Any]) -> str:
        try:
            response = self._http.post(self._path, json={"instances": [row]})
        except httpx.TransportError as error:
            return type(error).__name__
        if response.is_error:
            return f"status {response.status_code}"
        (prediction,) = response.json()["predictions"]
        numbers = prediction.values() if isinstance(prediction, dict) else (prediction,)
        return "answered" if all(math.isfinite(number) for number in numbers) else "not finite"
