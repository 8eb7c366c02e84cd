"""A made-up stream for tests, of another subject and task: each hour a meter is read, and its next reading predicted.

A reading is the label of its hour, and makes the meter's next hour due, at once. What is known of a meter is its last
reading, which the stream keeps; the next is as far on the other side of 30, less a tenth, and noise.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from components.schema import ExampleSchema, Feature
from streaming.learning.declaration import Due, Learning, ModelSettings, Outcome, Subject
from streaming.windows.declaration import Bounds, Group, Identity, Measure, Stream
from streaming.windows.messages import Event, Message, SchemaNumber, json_reader
from streaming.windows.store import Newest, Store

BEGIN = datetime(2013, 6, 1, tzinfo=UTC)


class Reading(msgspec.Struct):
    schema: SchemaNumber
    meter: str
    hour: int
    litres: float | None


_read = json_reader(Reading)


def at(reading: Reading) -> int:
    """When an hour is read, seconds since 1970: ten seconds after its end."""
    return (reading.hour + 1) * 3600 + 10


def parse(message: Message) -> Event:
    reading = _read(message.value)
    identity = f"{reading.meter}/{reading.hour}"
    if reading.litres is None:
        return Event(at(reading), {}, identity=identity)
    return Event(at(reading), {"meter": reading.meter}, {"litres": reading.litres}, identity)


def subjects(message: Message) -> Iterator[Subject]:
    reading = _read(message.value)
    following = reading.hour + 1
    yield Outcome(f"{reading.meter}/{reading.hour}", reading.litres)
    yield Due(
        f"{reading.meter}/{following}",
        cutoff=at(reading) // 60 + 1,
        expires=(following + 6) * 60,
        day=datetime.fromtimestamp(following * 3600, UTC).date().isoformat(),
        instance={"meter": reading.meter, "hour": following},
    )


def lookup(store: Store) -> Any:
    """The last reading of each meter before the hour that is asked for."""

    def features(instances: Sequence[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        queries = [Newest("meter", instance["meter"], 0, instance["hour"] * 60 + 1) for instance in instances]
        last = [row and row.totals[1] for row in store.read(queries)]
        rows = zip(instances, last, strict=True)
        return [{"last": litres, "meter": instance["meter"]} for instance, litres in rows], [{} for _ in instances]

    return features


def messages(lake: Path, start: datetime, end: datetime) -> Iterator[Message]:
    """Readings of two meters; nothing is read from the lake."""
    dice, litres = random.Random(0), {"a": 10.0, "b": 40.0}
    for hour in range(int(BEGIN.timestamp()) // 3600, int(end.timestamp()) // 3600):
        for meter, last in litres.items():
            litres[meter] = round(30 + (last - 30) * -0.9 + dice.gauss(0, 0.5), 1)
            reading = Reading(1, meter, hour, litres[meter])
            if start.timestamp() <= at(reading) < end.timestamp():
                yield Message(meter.encode(), msgspec.json.encode(reading), at(reading) * 1000)


def late_messages(lake: Path, start: datetime, end: datetime) -> Iterator[Message]:
    """The same readings in another order, each up to 50 minutes late.

    A third is published with a wrong number before, a sixth once more when it is too late; and some are not readable.
    """
    made = []
    for number, message in enumerate(messages(lake, BEGIN, end)):
        dice = random.Random(number)
        wrong = msgspec.structs.replace(_read(message.value), litres=99.0)
        first, last = sorted(dice.randrange(3_000_000) for _ in range(2))
        made.append(message._replace(published_ms=message.published_ms + last))
        if number % 3 == 0:
            made.append(Message(message.key, msgspec.json.encode(wrong), message.published_ms + first))
        if number % 6 == 0:
            made.append(Message(message.key, msgspec.json.encode(wrong), message.published_ms + 3_600_001))
        if number % 25 == 0:
            made.append(Message(message.key, b"{", message.published_ms))
    first_ms, end_ms = start.timestamp() * 1000, end.timestamp() * 1000
    yield from sorted((one for one in made if first_ms <= one.published_ms < end_ms), key=lambda one: one.published_ms)


STREAM = Stream(
    name="meters",
    topics=("test.meters",),
    parse="tests.streaming.learning.meters:parse",
    replay="tests.streaming.learning.meters:messages",
    groups=(Group("meter", ("meter",)),),
    measures=(Measure("litres"),),
    bounds=Bounds(out_of_order_s=60, allowed_lateness_s=3600),
    identity=Identity(lifetime_s=86_400),
)
SCHEMA = ExampleSchema(
    features=(Feature("last", "number", "Last reading"), Feature("meter", "category", "Which one")),
    label="litres",
    time="hour_at",
    keys=("reading_id",),
    slices=(),
    task="regression",
)
LEARNING = Learning(
    name="meters",
    stream=STREAM,
    subjects="tests.streaming.learning.meters:subjects",
    lookup="tests.streaming.learning.meters:lookup",
    schema=SCHEMA,
    history=timedelta(hours=3),
    output="litres",
    settings=ModelSettings(learning_rate=0.01, aggressiveness=0.1),
)
LATE = replace(LEARNING, stream=replace(STREAM, replay="tests.streaming.learning.meters:late_messages"))
