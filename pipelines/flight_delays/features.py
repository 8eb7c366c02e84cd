"""What the model sees of a flight, declared once: Spark computes it in batch, Beam in the stream.

Everything holds at the flight's cut-off (`clock.CUTOFF` before its scheduled departure), and every span of time is
half-open: a window of two hours holds what became known in [cut-off - 2 h, cut-off).
"""

from __future__ import annotations

from dataclasses import dataclass

from components.features.windows import EventStream, Group, Window, features_of, keys_name, same
from components.schema import ExampleSchema, Feature

LATE_MINUTES = 15
"""A flight is late when its delay exceeds this."""


@dataclass(frozen=True)
class Stream(EventStream):
    """Departures or arrivals; the columns are those of `flights`."""

    @property
    def delay(self) -> str:
        """Column: minutes behind schedule, negative when early."""
        return self.value


DEPARTURES = Stream("departures", "departed_at", "dep_delay")
ARRIVALS = Stream("arrivals", "arrived_at", "arr_delay")
STREAMS = (DEPARTURES, ARRIVALS)
_ALL_FLIGHTS = "all flights from New York"


@dataclass(frozen=True)
class Overdue:
    """Flights that should have left and have not: delays that no departure has told yet, and cancellations.

    A flight counts from `AFTER_MINUTES` to `UNTIL_MINUTES` after its scheduled departure, as long as it has not left.

    Args:
      by: Columns that the overdue flight and the one to predict share; () for all flights from New York.
    """

    by: tuple[str, ...]

    AFTER_MINUTES = 15
    UNTIL_MINUTES = 180

    @property
    def count(self) -> str:
        """Name of the feature: how many are overdue."""
        return f"overdue_count_{keys_name(self.by)}"

    @property
    def mean(self) -> str:
        """Name of the feature: by how many minutes on average, missing when none is."""
        return f"overdue_mean_minutes_{keys_name(self.by)}"


_ALL = ("count", "late_share", "mean_delay")
"""Measures: of events their number, the share over LATE_MINUTES late, and the mean; the latter missing without any."""

WINDOWS = (
    # Three lengths where most is known, so that one sees whether it grows worse; elsewhere one (docs/features.md).
    Window(DEPARTURES, ("origin",), 1, ("late_share", "mean_delay")),
    Window(DEPARTURES, ("origin",), 2, _ALL),
    Window(DEPARTURES, ("origin",), 3, ("late_share", "mean_delay")),
    Window(DEPARTURES, ("origin", "carrier"), 1, ("late_share", "mean_delay")),
    Window(DEPARTURES, ("origin", "carrier"), 2, _ALL),
    Window(DEPARTURES, ("origin", "carrier"), 3, ("late_share", "mean_delay")),
    Window(DEPARTURES, ("dest",), 2, _ALL),
    Window(DEPARTURES, (), 2, _ALL),
    Window(ARRIVALS, ("origin",), 2, _ALL),
    Window(ARRIVALS, ("dest",), 2, _ALL),
    # The flight's own record.
    Window(ARRIVALS, ("carrier", "flight"), 28 * 24, _ALL),
)
LOOKBACK_DAYS = max(window.hours for window in WINDOWS) // 24 + 3
"""Days before a row that its features look back on: the longest window, and the longest flight, with some room. The
features are the same as with everything before it."""
OVERDUE = tuple(Overdue(by) for by in (("origin",), ("origin", "carrier"), ("dest",), ()))

TAIL_MEMORY_HOURS = 24
"""What an aircraft did longer ago than this before the cut-off is forgotten: it tells nothing of today."""
TAIL_GROUPS = tuple(Group(stream, ("tailnum",)) for stream in STREAMS)
"""The aircraft's last known delays; of events of the same minute the largest delay counts."""

GROUPS = (*dict.fromkeys(window.group for window in WINDOWS), *TAIL_GROUPS)
"""Everything of which the stream keeps totals."""

WIND_SPEED_LIMIT_MPH = 150.0
"""A faster wind than any ever measured in New York is an instrument's fault and counts as missing."""


_MEASURES = {
    "count": ("number of", "count"),
    "late_share": (f"share over {LATE_MINUTES} minutes late of the", "share"),
    "mean_delay": ("mean delay of the", "minutes"),
}


def _overdue() -> tuple[Feature, ...]:
    kind = (
        f"flights {Overdue.AFTER_MINUTES} to {Overdue.UNTIL_MINUTES} minutes past their scheduled departure "
        "that have not left,"
    )
    return tuple(
        feature
        for overdue in OVERDUE
        for feature in (
            Feature(overdue.count, "number", f"number of {kind} {same(overdue.by, _ALL_FLIGHTS)}", "count"),
            Feature(
                overdue.mean,
                "number",
                f"mean minutes past schedule of {kind} {same(overdue.by, _ALL_FLIGHTS)}",
                "minutes",
            ),
        )
    )


_SCHEDULE = (
    Feature("carrier", "category", "Airline, two letters; known with the schedule"),
    Feature("origin", "category", "Airport of departure; known with the schedule"),
    Feature("dest", "category", "Airport of arrival; known with the schedule"),
    Feature("weekday", "category", "Local day of the scheduled departure, Mon to Sun; known with the schedule"),
    Feature(
        "local_minute", "number", "Scheduled departure, local minute of the day; known with the schedule", "minutes"
    ),
    Feature(
        "scheduled_minutes", "number", "Scheduled departure to scheduled arrival; known with the schedule", "minutes"
    ),
    Feature("distance", "number", "Distance from origin to destination; known with the schedule", "miles"),
    Feature(
        "scheduled_departures_origin",
        "number",
        "Departures that the schedule has at the origin in the same clock hour; known with the schedule",
        "count",
    ),
)

_PLANE = (
    Feature("plane_manufacturer", "category", "Maker of the assigned aircraft; known with the assignment"),
    Feature("plane_model", "category", "Model of the assigned aircraft; known with the assignment"),
    Feature("plane_age", "number", "Year of the flight less the aircraft's year; known with the assignment", "years"),
    Feature("plane_seats", "number", "Seats of the assigned aircraft; known with the assignment", "count"),
    Feature("plane_engines", "number", "Engines of the assigned aircraft; known with the assignment", "count"),
)

WEATHER = {
    "temp": ("temperature", "degrees Fahrenheit"),
    "dewp": ("dew point", "degrees Fahrenheit"),
    "humid": ("relative humidity", "percent"),
    "wind_dir": ("direction that the wind comes from", "degrees"),
    "wind_speed": ("wind speed", "miles per hour"),
    "wind_gust": ("speed of gusts, missing without gusts", "miles per hour"),
    "precip": ("precipitation", "inches"),
    "pressure": ("pressure at sea level", "millibars"),
    "visib": ("visibility", "miles"),
}
"""Columns of `weather` that become features of the same name: what they are, and their units."""

_WEATHER = tuple(
    Feature(name, "number", f"{words} at the origin, observed in the last full hour before the cut-off", unit)
    for name, (words, unit) in WEATHER.items()
)

_MEMORY = f"forgotten after {TAIL_MEMORY_HOURS} h"
_TAIL = (
    Feature("tail_departure_delay", "number", f"Last departure delay known of the aircraft, {_MEMORY}", "minutes"),
    Feature("tail_departure_age", "number", "Minutes from that departure to the cut-off", "minutes"),
    Feature("tail_arrival_delay", "number", f"Last arrival delay known of the aircraft, {_MEMORY}", "minutes"),
    Feature("tail_arrival_age", "number", "Minutes from that arrival to the cut-off", "minutes"),
    Feature(
        "tail_previous_delay",
        "number",
        "Delay, as known at the cut-off, of the aircraft's flight before this one in the plan: on arrival, else on "
        f"departure, else how long it has been due; {_MEMORY}",
        "minutes",
    ),
    Feature(
        "tail_slack",
        "number",
        "Time left for turning round twice, if the aircraft flies back as long as it flew out with that delay",
        "minutes",
    ),
)

SCHEMA = ExampleSchema(
    features=(*_SCHEDULE, *_PLANE, *_WEATHER, *features_of(WINDOWS, _MEASURES, _ALL_FLIGHTS), *_overdue(), *_TAIL),
    label="arrived_late",
    time="scheduled_departure",
    keys=("flight_id", "local_date", "month", "flight", "tailnum"),
    slices=("carrier", "origin", "month"),
    baseline=WINDOWS[0].feature("late_share"),
)
"""One row for each flight. `month` (2013-06) is a slice, no input: a model of the months before has never seen it."""
