"""Windows over the prediction log, in Beam: volume, latency and distribution of scores, of every model and version.

Ordinary windows of Beam: `FIXED`, five minutes each, and `SLIDING`, an hour that begins every five minutes. A row of
the log is an example that was answered, or a request that was refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.transforms import trigger, window

from streaming.sorting import decode_batch
from streaming.window_rows import WindowRow

FIXED_S = 300
"""Length of the fixed windows, and the slide of the others, seconds of event time."""
SLIDING_S = 3600
"""Length of the sliding windows, seconds of event time."""
ALLOWED_LATENESS_S = 2 * 3600
"""A row that is published so long after the end of its hour still corrects its windows, seconds of event time."""
FRESH_S = 10
"""What has come to a window is seen so long afterwards, seconds of the clock on the wall."""
REACH_HOURS = 1
"""Windows of an hour need the one before, where the stream begins again."""
SCORES = 20
"""Scores from 0 to 1 are counted in so many equal parts."""
LATENCY_STEP = 1.05
"""Latencies are counted in parts that grow by this; a quantile is right to within 5 %."""
QUANTILES = (0.5, 0.95, 0.99)


class Answer(msgspec.Struct):
    """What these windows need of a row of the log; times are instants, latencies milliseconds."""

    time: datetime
    model: str
    code: str
    latency_ms: float
    row: int
    sampling_rate: float
    version: int | None = None
    outputs: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """The model and its version; 0 where none answered."""
        return f"{self.model}/{self.version or 0}"


_DECODER = msgspec.json.Decoder(Answer)


def hour_of(value: bytes | None, published_ms: int) -> int:
    """The hour since 1970 of a row of the log; raises for what is none."""
    return int(_DECODER.decode(value or b"").time.timestamp() // 3600)


Account = tuple[int, float, float, int, float, dict[int, float], list[float]]
"""Rows; requests and refusals, each estimated from what was sampled; scores; their sum; latencies; scores by part."""


class Measure(beam.CombineFn):
    """Adds rows up; plain numbers, so that the engine needs no pickle.

    Args:
      score: The output that is a score from 0 to 1.
    """

    def __init__(self, score: str) -> None:
        super().__init__()
        self._score = score

    def create_accumulator(self) -> Account:
        """Of no row."""
        return 0, 0.0, 0.0, 0, 0.0, {}, [0.0] * SCORES

    def add_input(self, account: Account, value: bytes) -> Account:
        """Of one row more."""
        answer = _DECODER.decode(value)
        rows, requests, refused, scores, total, latencies, parts = account
        weight = 1 / answer.sampling_rate if answer.sampling_rate > 0 else 1.0
        latencies, parts = dict(latencies), list(parts)
        if answer.row == 0:
            requests += weight
            refused += weight * (answer.code != "OK")
            step = math.ceil(math.log(max(answer.latency_ms, 1e-3), LATENCY_STEP))
            latencies[step] = latencies.get(step, 0.0) + weight
        score = answer.outputs.get(self._score)
        if isinstance(score, (int, float)) and 0 <= score <= 1:
            scores, total = scores + 1, total + score
            parts[min(int(score * SCORES), SCORES - 1)] += weight
        return rows + 1, requests, refused, scores, total, latencies, parts

    def merge_accumulators(self, accounts: Iterable[Account]) -> Account:
        """Of all together."""
        rows, requests, refused, scores, total, latencies, parts = self.create_accumulator()
        for account in accounts:
            rows, requests, refused = rows + account[0], requests + account[1], refused + account[2]
            scores, total = scores + account[3], total + account[4]
            for step, weight in account[5].items():
                latencies[step] = latencies.get(step, 0.0) + weight
            parts = [one + other for one, other in zip(parts, account[6], strict=True)]
        return rows, requests, refused, scores, total, latencies, parts

    def extract_output(self, account: Account) -> Account:
        """As it is."""
        return account


def told(account: Account) -> dict[str, Any]:
    """What people are told: requests and refusals, latency in milliseconds, mean and distribution of the scores."""
    rows, requests, refused, scores, total, latencies, parts = account
    return {
        "rows": rows,
        "requests": requests,
        "refused": refused,
        "mean_score": total / scores if scores else None,
        "scores": parts,
        **{f"latency_p{quantile * 100:g}_ms": _quantile(latencies, quantile) for quantile in QUANTILES},
    }


def _quantile(latencies: dict[int, float], quantile: float) -> float | None:
    left = quantile * sum(latencies.values())
    for step in sorted(latencies):
        left -= latencies[step]
        if left <= 1e-9:  # noqa: PLR2004 - what adding up leaves over.
            return LATENCY_STEP**step
    return None


class _Rows(beam.DoFn):
    def process(self, element: tuple[int, bytes]) -> Iterator[window.TimestampedValue]:
        for value in decode_batch(element[1]).values:
            answer = _DECODER.decode(value)
            yield window.TimestampedValue((answer.key, value), answer.time.timestamp())


class _Told(beam.DoFn):
    def __init__(self, name: str) -> None:
        self._name = name

    def process(
        self, element: tuple[str, Account], of: window.IntervalWindow = beam.DoFn.WindowParam
    ) -> Iterator[WindowRow]:
        start, end = int(of.start), int(of.end)
        yield WindowRow(self._name, element[0], start, end - start, element[1][0], told(element[1]))


class PredictionWindows(beam.PTransform):
    """Batches of rows of the log by hour -> `WindowRow` of one kind of windows.

    Firings: every `FRESH_S` seconds by the clock on the wall while something comes to the window, once when the
    watermark has passed its end, and again `FRESH_S` after anything late. Panes accumulate. What comes so late that its
    hour is closed, the source has set aside; here every window is open as long as an hour in it may be.

    Args:
      name: Of the windows: "fixed" or "sliding".
      score: The output of the model that is a score from 0 to 1.
      follow: Whether the input goes on for ever; of one that ends, nobody needs a window before it is over.
    """

    def __init__(self, name: str, score: str = "probability", follow: bool = True) -> None:
        super().__init__()
        self._name, self._score, self._follow = name, score, follow

    def expand(self, batches: beam.PCollection[tuple[int, bytes]]) -> beam.PCollection[WindowRow]:
        """See the class."""
        spans = window.FixedWindows(FIXED_S) if self._name == "fixed" else window.SlidingWindows(SLIDING_S, FIXED_S)
        # Beam's runner in this process knows no clock on the wall where the input ends.
        early, late = [trigger.AfterProcessingTime(FRESH_S)] * 2 if self._follow else (None, trigger.AfterCount(1))
        return (
            batches
            | "rows" >> beam.ParDo(_Rows()).with_output_types(tuple[str, bytes])
            | "windows"
            >> beam.WindowInto(
                spans,
                trigger=trigger.AfterWatermark(early=early, late=late),
                accumulation_mode=trigger.AccumulationMode.ACCUMULATING,
                allowed_lateness=ALLOWED_LATENESS_S + SLIDING_S,
            )
            | "measure" >> beam.CombinePerKey(Measure(self._score))
            | "tell" >> beam.ParDo(_Told(self._name))
        )
