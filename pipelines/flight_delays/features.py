"""What the model sees of a flight, declared once: Spark computes it in batch, Beam in the stream.

Everything holds at the flight's cut-off (`clock.CUTOFF` before its scheduled departure), and every span of time is
half-open: a window of two hours holds what became known in [cut-off - 2 h, cut-off).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.schema import ExampleSchema, Feature

LATE_MINUTES = 15
"""A flight is late when its delay exceeds this."""

Measure = Literal["count", "late_share", "mean_delay"]


@dataclass(frozen=True)
class Stream:
    """Events of one kind, as they become known.

    Args:
      name: In the names of features.
      known_at: Column of `flights`: the instant of the event, at which its delay is known; null when it never came.
      delay: Column of `flights`: minutes behind schedule, negative when early.
    """

    name: str
    known_at: str
    delay: str


DEPARTURES = Stream("departures", "departed_at", "dep_delay")
ARRIVALS = Stream("arrivals", "arrived_at", "arr_delay")
STREAMS = (DEPARTURES, ARRIVALS)


@dataclass(frozen=True)
class Window:
    """Events of one stream that became known in the last hours, told apart by the flight's own keys.

    Args:
      stream: Which events.
      by: Columns of `flights` that event and flight share.
      hours: Length: [cut-off - hours, cut-off).
      measures: "count" of events; "late_share", more than LATE_MINUTES late, and "mean_delay", missing without events.
    """

    stream: Stream
    by: tuple[str, ...]
    hours: int
    measures: tuple[Measure, ...]

    def feature(self, measure: Measure) -> str:
        """Name of the feature that holds one measure, such as `departures_late_share_origin_2h`."""
        return f"{self.stream.name}_{measure}_{'_'.join(self.by)}_{self.hours}h"


@dataclass(frozen=True)
class Overdue:
    """Flights that should have left and have not: delays that no departure has told yet, and cancellations.

    A flight counts from `AFTER_MINUTES` to `UNTIL_MINUTES` after its scheduled departure, as long as it has not left.

    Args:
      by: Columns that the overdue flight and the one to predict share.
    """

    by: tuple[str, ...]

    AFTER_MINUTES = 15
    UNTIL_MINUTES = 180

    @property
    def count(self) -> str:
        """Name of the feature: how many are overdue."""
        return f"overdue_count_{'_'.join(self.by)}"

    @property
    def mean(self) -> str:
        """Name of the feature: by how many minutes on average, missing when none is."""
        return f"overdue_mean_minutes_{'_'.join(self.by)}"


_ALL: tuple[Measure, ...] = ("count", "late_share", "mean_delay")

WINDOWS = tuple(
    Window(stream, by, hours, _ALL)
    for stream, by in (
        (DEPARTURES, ("origin",)),
        (DEPARTURES, ("origin", "carrier")),
        (ARRIVALS, ("origin",)),
        (ARRIVALS, ("dest",)),
    )
    for hours in (1, 2, 3)
)
OVERDUE = (Overdue(("origin",)), Overdue(("origin", "carrier")))

TAIL_MEMORY_HOURS = 24
"""What an aircraft did longer ago than this before the cut-off is forgotten: it tells nothing of today."""

WIND_SPEED_LIMIT_MPH = 150.0
"""A faster wind than any ever measured in New York is an instrument's fault and counts as missing."""


def _windows() -> tuple[Feature, ...]:
    words = {
        "count": ("number of {s} known", "count"),
        "late_share": (f"share of the {{s}} known that were more than {LATE_MINUTES} minutes late", "share"),
        "mean_delay": ("mean delay of the {s} known", "minutes"),
    }
    return tuple(
        Feature(
            window.feature(measure),
            "number",
            f"{words[measure][0].format(s=window.stream.name)} in the {window.hours} h before the cut-off, "
            f"same {' and '.join(window.by)}",
            words[measure][1],
        )
        for window in WINDOWS
        for measure in window.measures
    )


def _overdue() -> tuple[Feature, ...]:
    told = (
        f"flights {Overdue.AFTER_MINUTES} to {Overdue.UNTIL_MINUTES} minutes past their schedule "
        "that have not left at the cut-off, same"
    )
    return tuple(
        feature
        for overdue in OVERDUE
        for feature in (
            Feature(overdue.count, "number", f"number of {told} {' and '.join(overdue.by)}", "count"),
            Feature(
                overdue.mean, "number", f"mean minutes past schedule of {told} {' and '.join(overdue.by)}", "minutes"
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
    "temp": "degrees Fahrenheit",
    "dewp": "degrees Fahrenheit",
    "humid": "percent",
    "wind_dir": "degrees",
    "wind_speed": "miles per hour",
    "wind_gust": "miles per hour",
    "precip": "inches",
    "pressure": "millibars",
    "visib": "miles",
}
"""Columns of `weather` that become features of the same name, with their units."""

_WEATHER = tuple(
    Feature(name, "number", f"{name} at the origin, observed in the last full hour before the cut-off", unit)
    for name, unit in WEATHER.items()
)

_MEMORY = f"forgotten after {TAIL_MEMORY_HOURS} h"
_TAIL = (
    Feature(
        "tail_departure_delay",
        "number",
        f"Last departure delay of the aircraft known at the cut-off; {_MEMORY}",
        "minutes",
    ),
    Feature("tail_departure_age", "number", "Minutes from that departure to the cut-off", "minutes"),
    Feature(
        "tail_arrival_delay", "number", f"Last arrival delay of the aircraft known at the cut-off; {_MEMORY}", "minutes"
    ),
    Feature("tail_arrival_age", "number", "Minutes from that arrival to the cut-off", "minutes"),
)

SCHEMA = ExampleSchema(
    features=(*_SCHEDULE, *_PLANE, *_WEATHER, *_windows(), *_overdue(), *_TAIL),
    label="arrived_late",
    time="scheduled_departure",
    keys=("flight_id", "local_date", "month", "flight", "tailnum"),
    slices=("carrier", "origin", "month"),
)
"""One row for each flight. `month` (2013-06) is a slice, no input: a model of the months before has never seen it."""
