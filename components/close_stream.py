"""close_stream: what a stream wrote of an interval, compared row by row with the same computed from the lake."""

import json
import logging
import math
from collections.abc import Mapping
from datetime import UTC, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from airtight.errors import TerminalError
from airtight.files import new_file, write_text
from airtight.home import Home
from airtight.import_string import load
from airtight.interval import Interval
from airtight.verdict import Verdict
from components.artifacts import StreamClosing
from components.data.lake import SPARK_TYPES, Lake, Table
from components.data.spark import session
from components.data.verified import Verifier
from components.measures.closing import KEYS, Columns, checks, compared
from components.reports.closing import page
from streaming.windows.declaration import Stream, declared
from streaming.windows.store import address_of, opened

log = logging.getLogger(__name__)

DIFFERENCES, SUMMARY, REPORT = "differences.parquet", "summary.json", "report.html"
MINUTE_US = 60_000_000
_HOUR = timedelta(hours=1)


@component
def close_stream(
    closing: OutputArtifact[StreamClosing],
    tables: Parameter[str],
    table: Parameter[str],
    recompute: Parameter[str],
    stream: Parameter[str],
    zone: Parameter[str],
    interval_start: Parameter[str],
    interval_end: Parameter[str],
    means: Parameter[str] = "{}",
    days_before: Parameter[int] = 4,
    days_after: Parameter[int] = 2,
    lake: Parameter[str] = "",
    store: Parameter[str] = "",
) -> None:
    """Compares a stream's totals of an interval with a batch computation of the same windows from the lake, on Spark.

    The stream's totals go from its store into the lake, a file for each interval that is closed. Every key and minute
    of the interval must be on both sides, with the same whole numbers and the same means to 1e-9. Different is a
    decision, and no fault: it is recorded with the rows that differ.

    Args:
      closing: Gets `equal` (1 or 0), the figures, `verdict.json`, `report.html`, `summary.json` and
        `differences.parquet`.
      tables: Dotted name of the pipeline's tables, a sequence of `components.data.lake.Table`.
      table: The table of which the stream tells, by its name.
      recompute: Dotted name of `(rows: DataFrame, start: datetime, end: datetime) -> DataFrame`, which gives the
        `group`, `key` and `minute` of `components.measures.closing`, `count` and a column of each of the stream's
        measures.
      stream: The stream's declaration: a pipeline's name, or an import string.
      zone: IANA name of the zone whose days are the lake's partitions.
      interval_start: A whole hour, ISO 8601 with offset.
      interval_end: A whole hour.
      means: JSON object: by the name of a mean that is compared, too, the measure that it is made of, by the count.
      days_before: What is known in the interval may belong to a day so many before it,
      days_after: or after it.
      lake: Folder of the lake; "" for that of the current home.
      store: Address of the stream's store; "" for the usual one.

    Raises:
      TerminalError: The interval has no whole hours, or the lake nothing of it, or a file of it is damaged; or the
        stream keeps what is no whole number.
      TransientError: Spark or the stream's store cannot be reached.
    """
    interval = Interval.of(interval_start, interval_end)
    _check_hours(interval)
    place = Path(lake) if lake else Home.current().lake
    (described,) = (candidate for candidate in load(tables) if candidate.name == table)
    files, version = _files_of_lake(Lake(place), described, interval, zone, days_before, days_after)
    declaration = declared(stream)
    columns = columns_of(declaration, json.loads(means))
    streamed, behind = totals_file(declaration, store, place / "stream", interval)
    with session("close_stream") as spark:
        schema = ", ".join(f"`{field.name}` {SPARK_TYPES[str(field.type)]}" for field in described.schema)
        batch = load(recompute)(spark.read.schema(schema).parquet(*files), interval.start, interval.end)
        figures, differing = compared(spark, batch, [str(streamed)], interval, columns)
    figures |= {"hours": (interval.end - interval.start) // _HOUR, "behind_minutes": behind}
    verdict = Verdict("close_stream", str(interval), checks(figures, behind, columns))
    for check in verdict.checks:
        log.log(logging.INFO if check.passed else logging.WARNING, "%s", check)
    folder = Path(closing.uri)
    with new_file(folder / DIFFERENCES) as temporary:
        pq.write_table(differing, temporary)
    verdict.write(folder)
    inputs = {"interval_start": interval_start, "interval_end": interval_end, "table": table, "version": version}
    finite = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    write_text(folder / SUMMARY, json.dumps({**inputs, **finite, "equal": verdict.passed}, indent=1))
    write_text(folder / REPORT, page(verdict, figures, differing.slice(0, 50).to_pylist()))
    closing.interval_start, closing.interval_end = interval.start.isoformat(), interval.end.isoformat()
    closing.equal, closing.summary, closing.lake_version = int(verdict.passed), str(verdict), version
    for name in ("rows", "missing", "extra", "differing"):
        setattr(closing, name, figures[name])
    log.info("%s The report lies in %s.", verdict, folder / REPORT)


def _check_hours(interval: Interval) -> None:
    if any(end.minute or end.second or end.microsecond for end in (interval.start, interval.end)):
        raise TerminalError(
            "A stream is closed by whole hours.",
            expected="an interval from one whole hour to another",
            received=str(interval),
            remedy="Correct the interval.",
        )


def _files_of_lake(
    lake: Lake, table: Table, interval: Interval, zone: str, before: int, after: int
) -> tuple[list[str], int]:
    """The files of which something may be known in the interval, verified, and the table's version."""
    version = lake.snapshot(table.name)
    wide = Interval(interval.start - timedelta(days=before), interval.end + timedelta(days=after))
    days = {day.isoformat() for day in wide.days(zone)}
    inside = {day.isoformat() for day in interval.days(zone)}
    if absent := sorted(inside - set(version.days)):
        raise TerminalError(
            f"The lake has not all {table.name} of the interval yet.",
            expected=f"a file of each day of {interval}",
            received=f"nothing of {', '.join(absent[:5])}",
            remedy="Close the interval when the lake has its days.",
        )
    files = [file for file in version.files if file.day in days]
    with Verifier(lake, zone) as verifier:
        for file in files:
            verifier.verify(table, file, by_note=True)
    return [str(lake.path / file.path) for file in files], version.number


def columns_of(stream: Stream, means: Mapping[str, str]) -> Columns:
    """What is compared of a stream.

    Args:
      stream: Its declaration.
      means: By name, which measure it is made of, by the count.

    Raises:
      TerminalError: The stream has distributions, or measures with a name of a key's column; or a mean is of no measure
        of it.
    """
    totals = ("count", *(measure.name for measure in stream.measures))
    wrong = [measure.name for measure in stream.measures if measure.kind == "distribution" or measure.name in KEYS]
    wrong += [name for name, total in means.items() if name in totals or total not in totals]
    if wrong:
        raise TerminalError(
            f"The stream {stream.name} cannot be compared with a batch.",
            expected=f"measures that are numbers and not named {', '.join(KEYS)}, and means of {', '.join(totals)}",
            received=", ".join(wrong),
            remedy="Correct the means, or declare a stream of numbers.",
        )
    return Columns(totals, dict(means))


def totals_file(stream: Stream, address: str, folder: Path, interval: Interval) -> tuple[Path, int]:
    """Writes a file with a stream's totals by the minute.

    Args:
      stream: Its declaration.
      address: Of its store; "" for the usual one.
      folder: In which the file is, under the stream's name.
      interval: Whole hours.

    Returns:
      The file, and by how many minutes the stream's watermark is before the interval's end.

    Raises:
      TerminalError: A total is no whole number.
      TransientError: The store cannot be reached.
    """
    first, end = (int(instant.timestamp()) // 60 for instant in (interval.start, interval.end))
    store = opened(address or address_of(stream), stream)
    try:
        watermark, rows = store.watermark() or 0, store.rows(1, first, end)
    finally:
        store.close()
    names = ("count", *(measure.name for measure in stream.measures))
    try:
        # The cast refuses what `pa.array` of a type would cut off.
        totals = {name: pa.array([row.totals[n] for row in rows]).cast(pa.int64()) for n, name in enumerate(names)}
    except pa.ArrowInvalid as error:
        raise TerminalError(
            f"The stream {stream.name} cannot be compared with a batch.",
            expected="totals that are whole numbers",
            received=str(error),
            remedy="Count in a smaller unit, such as cents.",
        ) from error
    table = pa.table(
        {
            "group": pa.array([row.group for row in rows], pa.string()),
            "key": pa.array([row.key for row in rows], pa.string()),
            "minute": pa.array([row.start * MINUTE_US for row in rows], pa.timestamp("us", tz="UTC")),
            **totals,
        }
    )
    ends = (instant.astimezone(UTC).strftime("%Y-%m-%dT%H") for instant in (interval.start, interval.end))
    path = folder / stream.name / f"{'_'.join(ends)}.parquet"
    with new_file(path) as temporary:
        pq.write_table(table, temporary)
    return path, max(0, end - watermark)
