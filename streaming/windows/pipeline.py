"""A declared stream as a pipeline of Beam: the same steps over Kafka in Flink, and over what ends, in process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apache_beam as beam

from streaming.engine.kafka_source import EventsOf, ReadEvents
from streaming.run import Build
from streaming.windows.arithmetic import Account, Key
from streaming.windows.declaration import MINUTE_S, Stream
from streaming.windows.letters import Letters
from streaming.windows.messages import Event, Message
from streaming.windows.parsing import LETTERS, Parse
from streaming.windows.sink import Advance, WriteRecords, WriteRows
from streaming.windows.store import Row
from streaming.windows.totals import SumInBundle, Totals
from streaming.windows.versions import Versions

FRESH_S = 1
"""What has come to a window is written so long afterwards at most, seconds of the clock on the wall."""
Span = tuple[int, int]
"""Minutes since 1970, the end not included."""


def from_kafka(stream: Stream, servers: str) -> beam.PTransform:
    """The stream's topics without an end, for Flink.

    Args:
      stream: The declaration.
      servers: The brokers, host:port,host:port.
    """
    bounds = stream.bounds
    return ReadEvents(
        servers,
        stream.topics,
        out_of_order_s=bounds.out_of_order_s,
        idle_s=bounds.idle_s,
        group=stream.name,
    )


def messages_of(messages: list[Message]) -> beam.PTransform:
    """Messages of a list, which ends."""
    return EventsOf([(message.key, message.value, message.published_ms / 1000) for message in messages])


def build(
    stream: Stream,
    source: beam.PTransform,
    store: str,
    *,
    follow: bool,
    servers: str = "",
    fresh_s: int = FRESH_S,
    span: Span | None = None,
) -> Build:
    """The steps of a stream, for one pipeline: the source belongs to that, as all transforms of Beam do.

    Args:
      stream: The declaration.
      source: Gives (key, value) with the publication as time: `from_kafka`, `kafka_source.ReadOffsets`,
        `lake_source.Replayed`, `messages_of`.
      store: Address of the store.
      follow: Whether the source goes on for ever. Of one that ends, rows are written when their windows are over.
      servers: The brokers, for the dead letters; empty has them counted only.
      fresh_s: How soon an open window is written, if the source goes on for ever, whole seconds.
      span: Only windows that lie in it are written, and only records of its events; None is all.
    """

    def steps(pipeline: beam.Pipeline) -> None:
        events, letters = pipeline | "messages" >> source | "parse" >> _Parsed(stream)
        counted = events | "counted" >> beam.Filter(_is_counted) if stream.tables else events
        changes: Any
        if stream.identity:
            versions = counted | "versions" >> Versions(stream, follow)
            changes = versions.changes
            letters = (letters, versions[LETTERS]) | "all_letters" >> beam.Flatten()
        else:
            changes = counted | "changes" >> beam.Map(_counts)
        _ = letters | "letters" >> Letters(stream, servers)
        accounts = changes | "sum_in_bundle" >> beam.ParDo(SumInBundle(stream)).with_output_types(tuple[Key, Account])
        early = fresh_s if follow else None
        minutes = _inside(accounts | "minutes" >> Totals(stream, None, early), "minutes", span, _is_row_in)
        ends = [minutes | "store" >> _writing(WriteRows(stream, store))]
        if stream.tables:
            ends.append(
                _inside(events, "records", span, _is_event_in) | "records" >> _writing(WriteRecords(stream, store))
            )
        for windows in stream.windows:
            name = f"windows_{windows.length_s}_{windows.every_s}"
            rows = _inside(accounts | name >> Totals(stream, windows, early), name, span, _is_row_in)
            # They say no end; the watermark waits for them all the same.
            ends.append(rows | f"store_{name}" >> _writing(WriteRows(stream, store)))
        _ = ends | "ends" >> beam.Flatten() | "watermark" >> beam.ParDo(Advance(stream, store, follow))

    return steps


def _inside(items: Any, name: str, span: Span | None, is_in: Callable[..., bool]) -> Any:
    return items if span is None else items | f"{name}_inside" >> beam.Filter(is_in, *span)


def _is_row_in(row: Row, start: int, end: int) -> bool:
    return start <= row.start and row.start + row.minutes <= end


def _is_event_in(event: Event, start: int, end: int) -> bool:
    return start <= event.at / MINUTE_S < end


def _writing(step: beam.DoFn) -> Any:
    return beam.ParDo(step).with_output_types(tuple[str, int])


def _is_counted(event: Event) -> bool:
    return event.counts


def _counts(event: Event) -> tuple[int, Event]:
    return 1, event


class _Parsed(beam.PTransform):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def expand(self, messages: Any) -> Any:
        parsed = messages | "read" >> beam.ParDo(Parse(self._stream)).with_outputs(LETTERS, main="events")
        return parsed.events, parsed[LETTERS]
