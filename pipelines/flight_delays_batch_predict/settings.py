"""What a person says of a batch of predictions."""

from __future__ import annotations

from airtight.parameters import Parameter
from pipelines.flight_delays import features
from pipelines.flight_delays.settings import LAKE_VERSION

HISTORY_DAYS = max(window.hours for window in features.WINDOWS) // 24 + 3
"""Days before the interval that its features look back on: the longest window, and the longest flight, with some room.
The features are the same as with everything before it."""

VERSION = Parameter(
    "version",
    "str",
    "as_of",
    "Which model scores: as_of (the latest that was pushed when the interval began), served (what is served now), or a "
    "version such as 201307010400001.",
)

PARAMETERS = (VERSION, LAKE_VERSION)
