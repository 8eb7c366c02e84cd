"""What the model sees of an hour, declared once. An hour is predicted when it starts, of hours that ended by then."""

from __future__ import annotations

from components.schema import ExampleSchema, Feature

LAGS_H = (1, 2, 3, 24, 168)
"""How many hours ago the rides of a single hour are taken from."""
MEANS_H = {"3h": 3, "24h": 24, "7d": 168, "28d": 672}
"""Hours, the last one included, over which rides are averaged."""
WEEKS = 4
"""Weeks back from which the same hour of the week is averaged."""

_CALENDAR = (
    Feature("hour_of_day", "number", "Hour on the clock, 0 to 23; 8 is 07:30 to 08:30", "hours"),
    Feature("weekday", "category", "Day of the week, Mon to Sun"),
    Feature("month", "number", "Month, 1 to 12", "months"),
    Feature("holiday", "number", "1 on a federal holiday of the United States, or 0", "days"),
)
_LAGS = tuple(Feature(f"rides_{hours}h", "number", f"Rides of the hour {hours} before", "count") for hours in LAGS_H)
_MEANS = tuple(Feature(f"mean_{name}", "number", f"Mean rides an hour, last {name}", "count") for name in MEANS_H)
_TYPICAL = (
    Feature("typical", "number", f"Mean rides of the same hour of the week, last {WEEKS} weeks", "count"),
    Feature("pace_1h", "number", "Rides of the last hour over what is typical of that hour", "share"),
    Feature("pace_3h", "number", "Rides of the last three hours over what is typical of them", "share"),
)
