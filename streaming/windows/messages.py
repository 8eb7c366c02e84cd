"""A message, the event that it tells, and a tolerant way to read JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from streaming.windows.declaration import Stream

MAX_BYTES = 1 << 20
"""A larger message is bad."""
NO_VALUE, TOO_LARGE, NO_JSON, WRONG_SCHEMA = "no value", "too large", "no JSON", "wrong schema"
"""Reasons of `json_reader`."""
AHEAD, LATE, LATE_CORRECTION = "ahead", "late", "late correction"
"""Reasons of what is read and does not count: published long before its event; long after; a version of an event whose
windows are closed. Only the first is bad."""

SchemaNumber = Annotated[int, Meta(ge=1)]
"""Of a message: a newer producer's is read like any other, as long as what is needed is there."""
T = TypeVar("T")


class Message(NamedTuple):
    """A message of Kafka.

    Args:
      key: Empty where it has none.
      value: Empty where it has none.
      published_ms: Its stamp in Kafka, milliseconds since 1970.
    """

    key: bytes
    value: bytes
    published_ms: int


class Event(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a message tells.

    Args:
      at: When it happened, seconds since 1970.
      fields: What keys are made of, by name.
      values: What measures are made of, by name. Sums of whole numbers are exact, whatever comes in which order.
      identity: What versions of one event have in common; "" counts each message for itself.
      published_ms: When the message was published; filled in by the stream.
      counts: Whether it is in totals; one that is not brings its records only.
      records: By table of the stream the key and whole parts of a record.
    """

    at: float
    fields: dict[str, str]
    values: dict[str, int | float] = {}
    identity: str = ""
    published_ms: int = 0
    counts: bool = True
    records: dict[str, dict[str, Any]] = {}


class BadMessage(Exception):
    """A message that cannot be read.

    Args:
      reason: One of few, to be counted: "no JSON".
      detail: What is wrong with this one.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def json_reader(kind: type[T], max_bytes: int = MAX_BYTES) -> Callable[[bytes], T]:
    """A reader of JSON that is tolerant: fields that it does not know are passed over.

    Args:
      kind: What a message is, a `msgspec.Struct`; its fields are checked. With a field `schema: SchemaNumber` newer
        schemas are read, as long as these fields are there.
      max_bytes: A larger message is bad.

    Returns:
      The function value -> object, which raises `BadMessage`.
    """
    decoder = msgspec.json.Decoder(kind)

    def read(value: bytes) -> T:
        if not value:
            raise BadMessage(NO_VALUE, "the message is empty")
        if len(value) > max_bytes:
            raise BadMessage(TOO_LARGE, f"{len(value)} bytes are more than {max_bytes}")
        try:
            return decoder.decode(value)
        except msgspec.ValidationError as error:
            raise BadMessage(WRONG_SCHEMA, str(error)) from None
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise BadMessage(NO_JSON, str(error)) from None

    return read


def read(parse: Callable[[Message], Event | None], stream: Stream, message: Message) -> Event | None:
    """Reads a message as the stream does.

    Args:
      parse: The stream's function.
      stream: Its declaration.
      message: The message.

    Returns:
      The event with its publication; None for what is no event of the stream.

    Raises:
      BadMessage: It cannot be read; or the event is more than `ahead_s` after its publication (reason "ahead"), or more
        than `allowed_lateness_s` before it (reason "late").
    """
    event = parse(message)
    return None if event is None else checked(event, stream, message.published_ms)


def checked(event: Event, stream: Stream, published_ms: int) -> Event:
    """The event with its publication; raises as `read`, where it is too late or too early for the stream."""
    if not math.isfinite(event.at):
        raise BadMessage(AHEAD, f"the event has no time: {event.at}")
    delay_s = published_ms / 1000 - event.at
    bounds = stream.bounds
    if -delay_s > bounds.ahead_s:
        raise BadMessage(AHEAD, f"published {-delay_s:.0f} s before its event, more than {bounds.ahead_s:g} s")
    if delay_s > bounds.allowed_lateness_s:
        raise BadMessage(LATE, f"published {delay_s:.0f} s after its event, more than {bounds.allowed_lateness_s:g} s")
    return msgspec.structs.replace(event, published_ms=published_ms)
