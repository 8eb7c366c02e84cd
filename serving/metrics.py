"""Counters and histograms under TensorFlow Serving's names, in Prometheus' text format.

They are kept here, not with prometheus-client, because that library appends `_total` to the name of every counter,
and dashboards made for TensorFlow Serving look for the names without it. What is ours has conventional names: the
part, what is counted, `_total`, and base units (`_seconds`). The event loop's thread alone touches them.
"""

from __future__ import annotations

from bisect import bisect_left

BOUNDS_US = tuple(10 * 1.8**power for power in range(33))
"""Upper bounds of TensorFlow Serving's latency buckets, in microseconds."""
SECONDS = "_seconds"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counter:
    """A sum for each combination of label values.

    Args:
      name: The metric's name.
      help: One line for people.
      labels: The labels' names.
    """

    def __init__(self, name: str, help: str, *labels: str) -> None:
        self.name, self.help, self.labels = name, help, labels
        self._sums: dict[tuple[str, ...], int] = {}
        METRICS.append(self)

    def add(self, *values: str, amount: int = 1) -> None:
        """Adds to one combination."""
        self._sums[values] = self._sums.get(values, 0) + amount

    def lines(self) -> list[str]:
        """The exposition."""
        head = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} counter"]
        return head + [f"{self.name}{_tags(self.labels, values)} {total}" for values, total in self._sums.items()]


class Histogram:
    """Durations in microseconds for each combination of label values; arguments as for `Counter`.

    One whose name ends with `_seconds` is shown in seconds, Prometheus' unit of time; TensorFlow Serving's are not.
    """

    def __init__(self, name: str, help: str, *labels: str) -> None:
        self.name, self.help, self.labels = name, help, labels
        self._scale = 1e-6 if name.endswith(SECONDS) else 1.0
        self._bounds = [f"{bound * self._scale:.9g}" if self._scale < 1 else str(bound) for bound in BOUNDS_US]
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        METRICS.append(self)

    def observe(self, microseconds: float, *values: str) -> None:
        """Adds one duration."""
        counts = self._counts.get(values)
        if counts is None:
            counts = self._counts[values] = [0] * (len(BOUNDS_US) + 1)
            self._sums[values] = 0.0
        counts[bisect_left(BOUNDS_US, microseconds)] += 1
        self._sums[values] += microseconds

    def lines(self) -> list[str]:
        """The exposition; buckets are cumulative."""
        text_lines = [f"# HELP {self.name} {self.help}", f"# TYPE {self.name} histogram"]
        for values, counts in self._counts.items():
            total = 0
            for bound, count in zip((*self._bounds, "+Inf"), counts, strict=True):
                total += count
                text_lines.append(f"{self.name}_bucket{_tags((*self.labels, 'le'), (*values, bound))} {total}")
            text_lines.append(f"{self.name}_sum{_tags(self.labels, values)} {self._sums[values] * self._scale}")
            text_lines.append(f"{self.name}_count{_tags(self.labels, values)} {total}")
        return text_lines


def exposition() -> bytes:
    """All metrics as Prometheus reads them."""
    return "\n".join([line for metric in METRICS for line in metric.lines()] + [""]).encode()


def _tags(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    quoted = (v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for v in values)
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(names, quoted, strict=True)) + "}"


METRICS: list[Counter | Histogram] = []
REQUESTS = Counter(":tensorflow:serving:request_count", "The total number of requests.", "model_name", "status")
REQUEST_LATENCY = Histogram(
    ":tensorflow:serving:request_latency", "Request latency in microseconds.", "model_name", "API", "entrypoint"
)
RUNTIME_LATENCY = Histogram(
    ":tensorflow:serving:runtime_latency", "The model's run in microseconds.", "model_name", "API", "runtime"
)
LOADS = Counter(":tensorflow:cc:saved_model:load_attempt_count", "Attempts to load.", "model_path", "status")
LOAD_LATENCY = Counter(":tensorflow:cc:saved_model:load_latency", "Load time in microseconds.", "model_path")
BATCHES = Counter("airtight_serving_batches_total", "Batches that were run.", "model_name")
BATCHED_REQUESTS = Counter("airtight_serving_batched_requests_total", "Requests in those batches.", "model_name")
CACHE_HITS = Counter("airtight_serving_prediction_cache_hits_total", "Answers from the cache.", "model_name")
CACHE_MISSES = Counter("airtight_serving_prediction_cache_misses_total", "Answers not in the cache.", "model_name")
CACHE_EVICTIONS = Counter("airtight_serving_prediction_cache_evictions_total", "Answers that made room.")
