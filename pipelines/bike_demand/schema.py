"""What the model sees of an hour, declared once. An hour is predicted when it starts, from hours that ended by then."""

from components.schema import ExampleSchema, Feature

LAGS_H = (1, 2, 3, 24, 168)
"""Hours back to the single hours whose rides are features."""
MEANS_H = (3, 24, 168)
"""Lengths, in hours, of the spans up to now whose mean rides are features."""
ALIKE_H = 672
"""How many hours back hours are alike: the same hour of the day, on working days or on days off."""
PACES_H = (1, 3, 24)
"""Lengths, in hours, of the spans up to now whose rides are set against what is typical of their hours."""
LOOKBACK_H = max(*MEANS_H, ALIKE_H + max(PACES_H), *LAGS_H)
"""How far back an hour's features look."""

SCHEMA = ExampleSchema(
    features=(
        Feature("hour_of_day", "number", "Hour on the clock, 0 to 23: 8 is 07:30 to 08:30", "hours"),
        Feature("weekday", "category", "Day of the week, Mon to Sun"),
        Feature("month", "number", "Month, 1 to 12", "months"),
        Feature("day_off", "category", "working day, weekend or holiday (federal, of the United States)"),
        *(Feature(f"rides_{hours}h", "number", f"Rides of the hour {hours} h before", "count") for hours in LAGS_H),
        *(Feature(f"mean_{hours}h", "number", f"Mean rides of the last {hours} hours", "count") for hours in MEANS_H),
        Feature("typical", "number", "Mean rides of the hours alike in the last 28 days", "count"),
        *(
            Feature(
                f"pace_{hours}h", "number", f"Rides of the last {hours} hours over what is typical of them", "ratio"
            )
            for hours in PACES_H
        ),
        Feature("expected", "number", "typical times the geometric mean of pace_1h and pace_3h", "count"),
    ),
    label="rides",
    time="starts_at",
    keys=("hour", "season", "day_part"),
    slices=("weekday", "day_part", "season"),
    baseline="rides_168h",
    baseline_as_is=True,
    reference="expected",
    task="regression",
    quantiles=(0.1, 0.5, 0.9),
)
"""One row for each hour of the source (`lake.RIDES`). The baseline is the same hour of last week, as it is."""
