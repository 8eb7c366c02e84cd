"""The windows of flights by a clock and a watermark that the test moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.testing import test_pipeline, test_stream
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import TimestampedValue

from pipelines.flight_delays import features
from pipelines.flight_delays.events import SCHEMA, Departure, encode
from pipelines.flight_delays.windows import FRESH_S, HOUR_S, EventHour, FlightWindows, gathered
from streaming.sorting import Batch, encode_batch, place

BEGIN = datetime(2013, 6, 1, 10, tzinfo=UTC)
NUMBER = int(BEGIN.timestamp()) // HOUR_S


def batch(*offsets: int, reached: datetime | None = None) -> Batch:
    made = [
        Departure(
            schema=SCHEMA,
            at=BEGIN + timedelta(minutes=offset),
            flight_id=f"2013-06-01/UA/{offset}/EWR",
            carrier="UA",
            flight=offset,
            tailnum=None,
            origin="EWR",
            dest="BOS",
            delay=20,
        )
        for offset in offsets
    ]
    places = [place(0, offset) for offset in offsets]
    stamps = [int(event.at.timestamp() * 1000) for event in made]
    return Batch(places, stamps, list(map(encode, made)), reached and int(reached.timestamp() * 1000))


def element(*offsets: int) -> TimestampedValue:
    return TimestampedValue((NUMBER, encode_batch(batch(*offsets))), NUMBER * HOUR_S)


def in_short(hour: EventHour) -> tuple[bool, int, int]:
    (all_departures,) = (each for each in hour.totals if each.group == "departures_all")
    return hour.over, hour.messages, int(all_departures.minutes.sum())


def test_an_hour_is_seen_early_and_on_time_and_each_time_whole() -> None:
    """What comes later is tried on Flink alone: this runner takes such panes for early ones."""
    end = (NUMBER + 1) * HOUR_S
    told = (
        test_stream.TestStream()
        .advance_watermark_to(0)
        .advance_processing_time(1000)
        .add_elements([element(1, 2)])
        .advance_processing_time(FRESH_S + 1)
        .add_elements([element(3)])
        .advance_watermark_to(end)
        .advance_watermark_to_infinity()
    )
    options = PipelineOptions([])
    options.view_as(StandardOptions).streaming = True
    with test_pipeline.TestPipeline(runner=BundleBasedDirectRunner(), options=options) as pipeline:
        made = pipeline | told | FlightWindows()
        assert_that(made | "in_short" >> beam.Map(in_short), equal_to([(False, 2, 40), (True, 3, 60)]))


def test_a_message_that_is_there_twice_counts_once_and_events_are_in_the_logs_order() -> None:
    hour = gathered(NUMBER, [batch(7, 3), batch(3, 5)], over=True)
    assert hour.messages == 3 and [event.flight for event in hour.events] == [3, 5, 7]


def test_the_watermark_is_the_latest_that_a_batch_knew() -> None:
    none, some = batch(1), batch(2, reached=BEGIN)
    assert gathered(NUMBER, [none], over=False).watermark is None
    assert gathered(NUMBER, [some, none], over=False).watermark == NUMBER * 60


def test_every_group_is_a_step_of_its_name() -> None:
    steps: list[str] = []
    with test_pipeline.TestPipeline(runner=BundleBasedDirectRunner(), options=PipelineOptions([])) as pipeline:
        _ = pipeline | beam.Create([element(1).value]) | FlightWindows(follow=False)
        for applied in pipeline.transforms_stack[0].parts:
            steps += [part.full_label for part in applied.parts]
    assert {group.name for group in features.GROUPS} <= {label.split("/")[-1] for label in steps}
