"""What the model of air_quality sees of a row, and what it predicts."""

from components.schema import ExampleSchema, Feature
from pipelines.air_quality import source

SCHEMA = ExampleSchema(
    features=(
        Feature(
            "pm25", "number", "Fine particles of the hour, 0 to 994; missing in 4.7%", "micrograms per cubic metre"
        ),
        Feature(
            "pm25_24h", "number", "Their mean over the last 24 hours, missing in 4.1%", "micrograms per cubic metre"
        ),
        Feature("dew_point", "number", "Dew point, -40 to 28", "degrees Celsius"),
        Feature("temperature", "number", "Temperature, -19 to 42", "degrees Celsius"),
        Feature("pressure", "number", "Pressure, 991 to 1046", "hectopascals"),
        Feature("wind_direction", "category", "NE, NW, SE, or cv for calm and variable"),
        Feature("wind", "number", "Wind, summed since its direction changed, 0.45 to 585.6", "metres per second"),
        Feature("wet", "number", "Hours of rain or snow since it began, 0 to 36", "hours"),
        Feature("hour", "number", "Hour of the day, 0 to 23"),
        Feature("weekday", "category", "Day of the week, Mon to Sun"),
        Feature("month", "number", "Month, 1 to 12"),
    ),
    label="tomorrow",
    time="time",
    keys=("time_local",),
    slices=("wind_direction",),
    task="multiclass",
    classes=source.CLASSES,
    baseline="pm25_24h",
)
