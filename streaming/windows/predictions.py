"""Streams of prediction logs: volume, latency and distribution of scores, of every model and version.

A message is an example that was answered, or a request that was refused, as the model server logs them.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import msgspec

from airtight.class_score import class_score
from streaming.windows.declaration import Bounds, Group, Measure, Stream, Windows
from streaming.windows.messages import Event, Message, json_reader

LATENCY_RATIO = 1.05
"""A quantile of latencies is at most 5 % too high."""
SCORE_WIDTH = 0.05


class Answer(msgspec.Struct):
    """What totals need of a row of the log; latency in milliseconds."""

    time: datetime
    model: str
    code: str
    latency_ms: float
    row: int
    sampling_rate: float
    version: int | None = None
    outputs: dict[str, Any] = {}


_read = json_reader(Answer)


def parse(message: Message) -> Event:
    """A row as an event; a request is counted by its first row, and what was sampled stands for the rest."""
    answer = _read(message.value)
    weight = 1 / answer.sampling_rate if answer.sampling_rate > 0 else 1.0
    values: dict[str, int | float] = {"weight": weight}
    if answer.row == 0:
        values |= {"requests": weight, "refused": weight * (answer.code != "OK"), "latency_ms": answer.latency_ms}
    for name, output in answer.outputs.items():
        if (value := score_of(output)) is not None:
            values |= {f"output_{name}": value, f"has_{name}": 1}
    return Event(answer.time.timestamp(), {"model": answer.model, "version": str(answer.version or 0)}, values)


def score_of(output: Any) -> float | None:
    """The number that a row's output counts as: itself, if it is finite.

    Probabilities of classes count as their `class_score`, as the router's answers do. None for anything else.
    """
    numbers = output if isinstance(output, list) else [output]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers):
        return None
    if not isinstance(output, list):
        return float(output)
    return class_score(output) if output else None


def prediction_log(
    name: str, topic: str, dead_letters: str, score: str = "probability", width: float = SCORE_WIDTH
) -> Stream:
    """The stream of a prediction log.

    Args:
      name: Of the stream.
      topic: That the model server logs to.
      dead_letters: Topic of what is no row.
      score: The output of the model that is the score: `probability`, `probabilities` of classes (see `score_of`), or
        a number such as `prediction`; of several labels by name, such as `late_probability`.
      width: Of the parts of its distribution; that of a number is in the number's unit.

    Returns:
      Minutes, windows of five minutes, and windows of an hour that begin every five minutes; of each key
      `model|version`, version 0 where none answered: `count` rows, `requests` and `refused`, `scored` rows and the sum
      of their `scores`, and the distributions `latency_ms` and `score`.
    """
    return Stream(
        name=name,
        topics=(topic,),
        parse="streaming.windows.predictions:parse",
        messages="streaming.windows.predictions:Answer",
        groups=(Group("version", ("model", "version")),),
        measures=(
            Measure("requests"),
            Measure("refused"),
            Measure("scored", of=f"has_{score}"),
            Measure("scores", of=f"output_{score}"),
            Measure("latency_ms", "distribution", ratio=LATENCY_RATIO, weight="requests"),
            Measure("score", "distribution", of=f"output_{score}", width=width, weight="weight"),
        ),
        bounds=Bounds(out_of_order_s=60, allowed_lateness_s=2 * 3600, idle_s=60),
        windows=(Windows(300), Windows(3600, 300)),
        dead_letters=dead_letters,
        keep_days=400,
    )
