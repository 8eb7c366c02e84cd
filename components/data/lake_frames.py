"""Pandas frames into the lake, for sources that fit in memory; `components.data.lake_import` takes larger ones."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from components.data.lake import Lake, Table, Version


def write_frame(lake: Lake, table: Table, frame: pd.DataFrame, zone: str) -> Version:
    """Writes rows in the declared columns and types, by the local day of their time; a static table whole.

    Args:
      lake: Where to.
      table: Which table.
      frame: Its columns, and perhaps others; ordered as the files are to be.
      zone: IANA name of the zone of the days.

    Raises:
      TerminalError: As `Lake.write`.
      TransientError: The disk is full.
    """
    if table.time is None:
        return lake.write(table.name, {None: _typed(table, frame)})
    days = frame.groupby(frame[table.time].dt.tz_convert(zone).dt.date)
    return lake.write(table.name, {day: _typed(table, rows) for day, rows in days})


def _typed(table: Table, frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame[table.schema.names], schema=table.schema, preserve_index=False)
