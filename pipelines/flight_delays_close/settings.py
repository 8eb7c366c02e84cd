"""When the stream's days are closed, and of which tables."""

from __future__ import annotations

from airtight.parameters import Parameter

SCHEDULE = "0 0 * * *"
"""A day is closed when it is over; hourly is "0 * * * *"."""
FIRST, LAST = (2013, 1, 1), (2014, 1, 1)

DAYS_BEFORE, DAYS_AFTER = 4, 2
"""A flight leaves and arrives at most so many days after its scheduled day, and so many before (pipelines' replay)."""

MEANS = {"mean_delay": "minutes", "late_share": "late"}
"""What features are made of: by name the measure that it is, by the count."""

PARAMETERS: tuple[Parameter, ...] = ()
"""Nothing but the interval is for a person to say."""
