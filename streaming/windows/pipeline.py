"""A declared stream as a pipeline of Beam: the same steps over Kafka in Flink, and over what ends, in process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apache_beam as beam

from streaming.engine.kafka_source import EventsOf, ReadEvents
from streaming.run import Build
from streaming.windows.batches import Batch
from streaming.windows.declaration import MINUTE_S, Stream
from streaming.windows.letters import Letters
from streaming.windows.messages import Event, Message
from streaming.windows.parsing import LETTERS, Parse
from streaming.windows.sink import Advance, WriteRecords, WriteRows
from streaming.windows.store import Row
from streaming.windows.totals import Totals
from streaming.windows.versions import Change, Versions

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
    span: Span | None = None,
) -> Build:
    """The steps of a stream, for one pipeline: the source belongs to that, as all transforms of Beam do.

    Args:
      stream: The declaration.
      source: Gives (key, value) with the publication as time: `from_kafka`, `kafka_source.ReadOffsets`,
        `lake_source.Replayed`, `messages_of`.
      store: Address of the store.
      follow: Whether the source goes on for ever. Of one that ends, rows are written when all is read.
      servers: The brokers, for the dead letters; empty has them counted only.
      span: Only windows that lie in it are written, and only records of its events; None is all.
    """

    def steps(pipeline: beam.Pipeline) -> None:
        events, letters = pipeline | "messages" >> source | "parse" >> _Parsed(stream)
        counted = events | "counted" >> beam.Map(_counted).with_output_types(Batch) if stream.tables else events
        changes: Any
        if stream.identity:
            versions = counted | "versions" >> Versions(stream, follow)
            changes = versions.changes
            letters = (letters, versions[LETTERS]) | "all_letters" >> beam.Flatten()
        else:
            changes = counted | "changes" >> beam.Map(_each_counts).with_output_types(Batch)
        _ = letters | "letters" >> Letters(stream, servers)
        rows = changes | "totals" >> Totals(stream, follow)
        ends = [_inside(rows, "rows", span, _is_row_in) | "store" >> _writing(WriteRows(stream, store))]
        if stream.tables:
            within = _inside(events, "events", span, _is_event_in)
            ends.append(within | "records" >> _writing(WriteRecords(stream, store)))
        _ = ends | "ends" >> beam.Flatten() | "watermark" >> beam.ParDo(Advance(stream, store, follow))

    return steps


def _inside(lists: Any, name: str, span: Span | None, is_in: Callable[..., bool]) -> Any:
    """Of each list what is in the span."""
    if span is None:
        return lists
    within = beam.Map(lambda items: [item for item in items if is_in(item, *span)])
    return lists | f"{name}_inside" >> within.with_output_types(Batch)


def _is_row_in(row: Row, start: int, end: int) -> bool:
    return start <= row.start and row.start + row.minutes <= end


def _is_event_in(event: Event, start: int, end: int) -> bool:
    return start <= event.at / MINUTE_S < end


def _writing(step: beam.DoFn) -> Any:
    return beam.ParDo(step).with_output_types(tuple[str, int])


def _counted(events: list[Event]) -> list[Event]:
    return [event for event in events if event.counts]


def _each_counts(events: list[Event]) -> list[Change]:
    return [(1, event) for event in events]


class _Parsed(beam.PTransform):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def expand(self, messages: Any) -> Any:
        parsed = messages | "read" >> beam.ParDo(Parse(self._stream)).with_output_types(Batch).with_outputs(
            LETTERS, main="events"
        )
        return parsed.events, parsed[LETTERS]
