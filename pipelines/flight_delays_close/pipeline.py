"""Flight delays: the stream's totals of an interval beside those that the batch computes from the lake.

close_stream

One node: what is compared are whole hours of what became known, which belong to flights of days around them.
"""

import json

from tfx.orchestration.pipeline import Pipeline

from components.close_stream import close_stream
from pipelines.flight_delays import clock
from pipelines.flight_delays_close import settings
from runtime.parameters import interval_parameters
from runtime.task_options import task

NAME = "flight_delays_close"
ZONE = clock.ZONE
PARAMETERS = settings.PARAMETERS


def create_pipeline() -> Pipeline:
    """Wires the node."""
    start, end = interval_parameters()
    closed = close_stream(
        tables="pipelines.flight_delays.lake:TABLES",
        table="flights",
        recompute="pipelines.flight_delays_close.batch:totals",
        stream="flight_delays",
        zone=ZONE,
        interval_start=start,
        interval_end=end,
        means=json.dumps(settings.MEANS),
        days_before=settings.DAYS_BEFORE,
        days_after=settings.DAYS_AFTER,
    ).with_id("close_stream")
    # What the stream has written is no input that a cache knows of.
    task(closed, cache=False)
    return Pipeline(pipeline_name=NAME, components=[closed], enable_cache=False)
