"""The stream of bike_demand: how many rides each hour had, published when it has ended; again where it is corrected."""

from datetime import datetime

import msgspec

from pipelines.bike_demand.lake import RIDES
from streaming.windows.declaration import Bounds, Group, Identity, Measure, Stream, Windows
from streaming.windows.messages import SchemaNumber
from streaming.windows.table_events import TableEvents


class Reading(msgspec.Struct):
    """A message: the hour on the clock, when it ended, how many rides began in it."""

    schema: SchemaNumber
    hour: str
    ends_at: datetime
    rides: int


EVENTS = TableEvents(RIDES.name, Reading, at="ends_at", identity="hour", values=("rides",), clock="hour")
parse, messages = EVENTS.parse, EVENTS.messages
STREAM = Stream(
    name="bike_demand",
    topics=("bike.rides",),
    parse=f"{__name__}:parse",
    messages=f"{__name__}:Reading",
    replay=f"{__name__}:messages",
    groups=(Group("all"), Group("weekday_hour", ("weekday", "hour"))),
    measures=(Measure("rides"), Measure("mean_rides", "mean", "rides"), Measure("most_rides", "max", "rides")),
    bounds=Bounds(out_of_order_s=3600, allowed_lateness_s=86_400),
    identity=Identity(lifetime_s=7 * 86_400),
    windows=(Windows(86_400),),
    dead_letters="bike.dead-letters",
    keep_days=35,
)
