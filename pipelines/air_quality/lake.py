"""The lake of air_quality: one table, from the file that `source` makes. Run `python -m pipelines.air_quality.lake`."""

from pathlib import Path

from airtight.home import Home
from components.data import lake_import
from components.data.lake import Lake
from components.data.sources import Source
from pipelines.air_quality import source
from pipelines.air_quality.schema import SCHEMA
from pipelines.air_quality.settings import SETTINGS

TABLE = lake_import.table_of("air_quality", SCHEMA, key=("time",), computed=("hour", "weekday", "month", "time_local"))
TABLES = (TABLE,)


def fill(path: Path) -> None:
    """Takes all hours into the lake at this path."""
    data = Home.current().downloads / "air_quality.csv"
    source.write(data)
    lake_import.fill(Lake(path), TABLE, Source(data=str(data), time=("time",), time_zone=source.ZONE), SETTINGS.zone)


if __name__ == "__main__":
    lake_import.main(fill)
