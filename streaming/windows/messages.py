"""A message, the event that it tells, and a tolerant way to read JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from airtight.errors import AirtightError

if TYPE_CHECKING:
    from streaming.windows.declaration import Stream

MAX_BYTES = 1 << 20
"""A larger message is bad."""
NO_VALUE, TOO_LARGE, NO_JSON, WRONG_SCHEMA = "no value", "too large", "no JSON", "wrong schema"
"""Reasons of `json_reader`."""
UNREADABLE, OUT_OF_RANGE = "unreadable", "out of range"
"""Reasons of `read`: the stream's function failed on it, or the stores do not take its numbers or texts."""
GREATEST = 2**53
"""Of the numbers of an event. Whole ones beyond it are exact neither in JSON nor in PostgreSQL's sums, and SQLite takes
none of 64 bits or more."""
LONGEST_BYTES = 2000
"""Of the fields of an event together, and of a text of a record. PostgreSQL has no larger keys."""
AHEAD, LATE, LATE_CORRECTION = "ahead", "late", "late correction"
"""Reasons of what is read and does not count: published long before its event; long after; a version of an event whose
windows are closed. Only the first is bad."""

SchemaNumber = Annotated[int, Meta(ge=1)]
"""Of a message: a newer producer's is read like any other, as long as what is needed is there."""
T = TypeVar("T")
S = TypeVar("S")


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


NO_MESSAGE = Message(b"", b"", 0)


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
      message: That it was read from, for the dead letters; filled in by the stream.
    """

    at: float
    fields: dict[str, str]
    values: dict[str, int | float] = {}
    identity: str = ""
    published_ms: int = 0
    counts: bool = True
    records: dict[str, dict[str, Any]] = {}
    message: Message = NO_MESSAGE


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
      The event with its publication and its message; None for what is no event of the stream.

    Raises:
      BadMessage: It cannot be read, whatever the function raises; its event has numbers or texts that not
        every store takes; or is more than `ahead_s` after its publication (reason "ahead"), or more than
        `allowed_lateness_s` before it (reason "late").
    """
    event = or_bad(parse, message)
    if event is None:
        return None
    or_bad(_check_content, event)
    _check_delay(event, stream, message.published_ms)
    return msgspec.structs.replace(event, published_ms=message.published_ms, message=message)


def or_bad(function: Callable[[S], T], argument: S) -> T:
    """What a function makes of a message or an event.

    Raises:
      BadMessage: Whatever the function raises: one message must not end a stream. Faults that it names itself, and a
        lack of memory, are no fault of the message and pass.
    """
    try:
        return function(argument)
    except (BadMessage, AirtightError, MemoryError):
        raise
    except Exception as error:
        raise BadMessage(UNREADABLE, f"{type(error).__name__}: {error}") from error


def _check_content(event: Event) -> None:
    if not math.isfinite(event.at):
        raise BadMessage(AHEAD, f"the event has no time: {event.at}")
    _check_text("the fields", "".join(event.fields.values()))
    for name, value in event.values.items():
        _check_number(name, value)
    for record in event.records.values():
        for name, value in record.items():
            (_check_text if isinstance(value, str) else _check_number)(name, value)


def _check_number(name: str, value: float | None) -> None:
    if value is not None and not -GREATEST <= value <= GREATEST:
        raise BadMessage(OUT_OF_RANGE, f"{name} is beyond 2^53, or no number")


def _check_text(name: str, text: str) -> None:
    if "\0" in text:
        raise BadMessage(OUT_OF_RANGE, f"{name}: a NUL character")
    if (size := len(text.encode())) > LONGEST_BYTES:
        raise BadMessage(OUT_OF_RANGE, f"{name}: {size} bytes are more than {LONGEST_BYTES}")


def _check_delay(event: Event, stream: Stream, published_ms: int) -> None:
    delay_s = published_ms / 1000 - event.at
    bounds = stream.bounds
    if -delay_s > bounds.ahead_s:
        raise BadMessage(AHEAD, f"published {-delay_s:.0f} s before its event, more than {bounds.ahead_s:g} s")
    if delay_s > bounds.allowed_lateness_s:
        raise BadMessage(LATE, f"published {delay_s:.0f} s after its event, more than {bounds.allowed_lateness_s:g} s")
