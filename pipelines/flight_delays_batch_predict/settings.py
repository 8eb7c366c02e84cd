"""What a person says of a batch of predictions."""

from __future__ import annotations

from airtight.parameters import Parameter
from pipelines.flight_delays.settings import LAKE_VERSION

VERSION = Parameter(
    "version",
    "str",
    "as_of",
    "Which model scores: as_of (by data time the latest that was pushed when the interval began; with a label delay it "
    "was judged that much later), served (what is served now), or a version such as 201307010400001.",
)

PARAMETERS = (VERSION, LAKE_VERSION)
