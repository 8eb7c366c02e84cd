"""The router's own metrics, in Prometheus' text format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serving.metrics import Counter, Histogram
from serving.router.arm_metrics import Traffic

if TYPE_CHECKING:
    from serving.router.backends import Backend

_REQUESTS = Counter(
    "airtight_router_requests_total", "Requests by model, API, side and HTTP code.", "model", "api", "side", "code"
)
_LATENCY = Histogram(
    "airtight_router_request_duration_seconds", "From the request to its answer, in seconds.", "model", "api"
)
_RESENT = Counter("airtight_router_resent_total", "Requests sent to another server, or again without a version.", "why")
_OURS = (_REQUESTS, _LATENCY, _RESENT)
_FAULT = 400

TRAFFIC: dict[str, Traffic] = {}
"""All requests since the start, by model."""


def answered(model: str, api: str, side: str, code: int, seconds: float) -> None:
    """Counts one request for a prediction."""
    if model not in TRAFFIC:
        # Names that people make up are no label values: a model is known by its first good answer.
        if code < _FAULT and model:
            TRAFFIC[model] = Traffic()
        else:
            model = ""
    if model:
        TRAFFIC[model].add(code, 1e3 * seconds)
    _REQUESTS.add(model, api, side, str(code))
    _LATENCY.observe(1e6 * seconds, model, api)


def resent(why: str) -> None:
    """Counts one request that had to be sent again: `server` or `version`."""
    _RESENT.add(why)


def exposition(backends: list[Backend]) -> bytes:
    """All of it, as Prometheus reads it."""
    lines = [line for metric in _OURS for line in metric.lines()]
    for name, kind, help, attribute in (
        ("airtight_router_server_healthy", "gauge", "1 where requests are sent to the server.", "healthy"),
        ("airtight_router_server_in_flight", "gauge", "Requests under way.", "in_flight"),
        ("airtight_router_server_requests_total", "counter", "Requests sent to the server.", "requests"),
    ):
        lines += [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
        lines += [f'{name}{{server="{each.address.rest}"}} {int(getattr(each, attribute))}' for each in backends]
    return "\n".join([*lines, ""]).encode()
