"""ingest: names what a run reads from the lake, and checks that it is there, whole and of the declared form."""

import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from airtight.errors import TerminalError
from airtight.home import Home
from airtight.import_string import load
from airtight.interval import Interval
from airtight.parameters import check_choice
from components.artifacts import Dataset
from components.data.dataset import DatasetReader, Part, TableFiles
from components.data.lake import Lake, Table, Version
from components.data.verified import Verifier

log = logging.getLogger(__name__)

LAKE_VERSIONS = ("now", "then")
"""Which versions of the tables to read: the newest, or the newest that was known when the interval was judged."""


@component
def ingest(
    dataset: OutputArtifact[Dataset],
    tables: Parameter[str],
    zone: Parameter[str],
    interval_start: Parameter[str],
    interval_end: Parameter[str],
    window_days: Parameter[int] = 0,
    lookback_days: Parameter[int] = 0,
    label_delay_hours: Parameter[int] = 0,
    lake_version: Parameter[str] = "then",
    lake: Parameter[str] = "",
) -> None:
    """Writes the manifest of the interval and of the history before it; no data is copied.

    Every file of the interval is digested whole, and the time of its rows is looked at. So is a file of the history,
    unless it was verified before and has not been touched since (`components.data.verified`): a month reads a month.

    Args:
      dataset: Receives `manifest.json`; properties interval, rows, digest; as custom properties rows_<table>, and how
        much was read, bytes_read and files_read.
      tables: Dotted name of the pipeline's tables, a sequence of `components.data.lake.Table`.
      zone: IANA name of the zone whose days are the lake's partitions.
      interval_start: First instant of the interval, ISO 8601 with offset.
      interval_end: First instant after it.
      window_days: How many local days before the interval hold the rows to train on; 0 for everything before it.
      lookback_days: How many local days before those are read as well, for features that look back: without them, the
        first rows of the window would have features unlike those of the interval.
      label_delay_hours: Hours after the interval's end in which its labels still become known. The interval is judged
        with them, so it can run only when they are over; an interval judged at its end lacks its slowest labels.
      lake_version: One of `LAKE_VERSIONS`.
      lake: Folder of the lake; "" for that of the current home.

    Raises:
      TerminalError: The interval is no interval or has not ended, the lake has nothing of it or nothing before it, or a
        file is missing, corrupt, of another form, or has rows of another day than its own.
    """
    interval = Interval.of(interval_start, interval_end)
    judged_at = interval.end + timedelta(hours=label_delay_hours)
    _check_parameters(interval, judged_at, window_days, lookback_days, lake_version)
    store = Lake(Path(lake) if lake else Home.current().lake)
    declared: Sequence[Table] = load(tables)
    reader = _select(
        store,
        declared,
        interval,
        zone,
        window_days=window_days,
        lookback_days=lookback_days,
        judged_at=judged_at,
        lake_version=lake_version,
    )
    with Verifier(store, zone) as verifier:
        _verify(verifier, declared, reader)
    reader.write(dataset.uri)
    dataset.interval_start, dataset.interval_end = interval.start.isoformat(), interval.end.isoformat()
    dataset.rows = sum(table.rows for table in reader.tables.values())
    dataset.digest = reader.digest
    dataset.set_string_custom_property("lake_version", lake_version)
    for name, table in reader.tables.items():
        dataset.set_int_custom_property(f"rows_{name}", table.rows)
        dataset.set_int_custom_property(f"version_{name}", table.version)
    # As JSON, which no cache's key holds: the same data set is the same, whatever of it had to be read.
    dataset.set_json_value_custom_property("bytes_read", sum(file.bytes for file in verifier.read))
    dataset.set_json_value_custom_property("files_read", len(verifier.read))
    _say(reader, verifier)
    log.info("The manifest of these files, digest %s, lies in %s.", reader.digest[:12], dataset.uri)


def lake_state(parameters: dict[str, Any]) -> str:
    """What an earlier result of `ingest` rests on beside its parameters: the versions of the tables that it would read.

    Args:
      parameters: Those of the component, by name.
    """
    interval = Interval.of(parameters["interval_start"], parameters["interval_end"])
    place = parameters.get("lake", "")
    store = Lake(Path(place) if place else Home.current().lake)
    judged_at = interval.end + timedelta(hours=parameters.get("label_delay_hours", 0))
    versions = _versions(store, load(parameters["tables"]), judged_at, parameters.get("lake_version", "then"))
    numbers = ", ".join(f"{table.name} {version.number}" for table, version in versions.items())
    return f"{store.path.resolve()}: {numbers}"


def _check_parameters(
    interval: Interval, judged_at: datetime, window_days: int, lookback_days: int, lake_version: str
) -> None:
    now = datetime.now(UTC)
    if judged_at > now:
        waits = judged_at > interval.end
        raise TerminalError(
            "The labels of the interval are not known yet." if waits else "The interval is not over yet.",
            expected=f"an interval that ends by now, {now.isoformat(timespec='minutes')}"
            + (", and label_delay_hours that are over" if waits else ""),
            received=f"{interval}, judged at {judged_at.isoformat()}" if waits else str(interval),
            remedy="Choose an interval of the past, or run this one after its end.",
        )
    check_choice("lake_version", lake_version, LAKE_VERSIONS)
    if judged_at < interval.end or min(window_days, lookback_days) < 0:
        raise TerminalError(
            "A length is negative.",
            expected="window_days of 0 or more, and lookback_days and label_delay_hours likewise",
            received=f"{window_days}, {lookback_days} and {(judged_at - interval.end).total_seconds() / 3600:g}",
            remedy="Correct them on the trigger form, in the run's conf or in the pipeline.",
        )


def _select(
    lake: Lake,
    tables: Sequence[Table],
    interval: Interval,
    zone: str,
    *,
    window_days: int,
    lookback_days: int = 0,
    judged_at: datetime | None = None,
    lake_version: str,
) -> DatasetReader:
    """Chooses the versions and the files of every table."""
    judged_at = judged_at or interval.end
    versions = _versions(lake, tables, judged_at, lake_version)
    training_start = _history_start(versions, interval, zone, window_days)
    start = _history_start(versions, interval, zone, window_days and window_days + lookback_days)
    chosen = {}
    for table, version in versions.items():
        chosen[table.name] = files = _files(table, version, interval, start, zone)
        if table.time is not None and table.required:
            _check_not_empty(version, files, interval, training_start, zone)
    return DatasetReader(lake.path.resolve(), zone, interval, start, training_start, judged_at, lake_version, chosen)


def _verify(verifier: Verifier, tables: Sequence[Table], reader: DatasetReader) -> None:
    """Checks every file: those of the interval, and static ones, always by reading them."""
    for table in tables:
        judged = set(reader.files(table.name, "interval"))
        for file in reader.tables[table.name].files:
            verifier.verify(table, file, by_note=reader.lake / file.path not in judged)


def _versions(lake: Lake, tables: Sequence[Table], instant: datetime, lake_version: str) -> dict[Table, Version]:
    return {
        table: lake.snapshot_as_of(table.name, instant) if lake_version == "then" else lake.snapshot(table.name)
        for table in tables
    }


def _history_start(versions: dict[Table, Version], interval: Interval, zone: str, window_days: int) -> datetime:
    """Midnight of the first day of the history: as far back as asked for, or as there are required data."""
    local = interval.start.astimezone(ZoneInfo(zone))
    firsts = [version.days[0] for table, version in versions.items() if table.required and version.days]
    first = min(map(date.fromisoformat, firsts), default=local.date())
    if window_days:
        first = max(first, local.date() - timedelta(days=window_days))
    return min(datetime.combine(first, time(), ZoneInfo(zone)), local)


def _files(table: Table, version: Version, interval: Interval, start: datetime, zone: str) -> TableFiles:
    days = {day.isoformat() for day in Interval(start, interval.end).days(zone)}
    files = tuple(file for file in version.files if table.time is None or file.day in days)
    held = {file.day for file in files}
    missing = tuple(day.isoformat() for day in interval.days(zone) if day.isoformat() not in held)
    columns = {field.name: str(field.type) for field in table.schema}
    return TableFiles(
        table.name,
        version.number,
        version.known_at,
        table.time,
        table.key,
        columns,
        missing if table.time else (),
        files,
    )


def _check_not_empty(version: Version, files: TableFiles, interval: Interval, start: datetime, zone: str) -> None:
    """A run needs rows to be judged on, and rows before them to be trained on."""
    days, judged = version.days, [day.isoformat() for day in interval.days(zone)]
    held = f"{version.table} from {days[0]} to {days[-1]}" if days else f"no {version.table} at all"
    if len(files.missing_days) == len(judged):
        gap = bool(days) and days[0] < judged[0] and judged[-1] < days[-1]
        raise TerminalError(
            f"The lake has no {version.table} in the interval.",
            expected=f"{version.table} of {judged[0]} to {judged[-1]}"
            if gap
            else "an interval within what the lake holds",
            received=f"a gap there; the lake holds {held}" if gap else f"{interval}; the lake holds {held}",
            remedy="Choose another interval, or add these days to the lake and run again.",
        )
    first = start.astimezone(ZoneInfo(zone)).date().isoformat()
    if not any(file.day and first <= file.day < judged[0] for file in files.files):
        raise TerminalError(
            f"The lake has no {version.table} in the window before the interval, so there is nothing to train on.",
            expected=f"{version.table} before {judged[0]}"
            + (f", from {start.date()} on" if start < interval.start else ""),
            received=f"the lake holds {held}",
            remedy="Choose a later interval or a longer window (window_days, 0 for everything before).",
        )


def _say(reader: DatasetReader, verifier: Verifier) -> None:
    log.info("Interval %s, history from %s.", reader.interval, reader.history_start.isoformat())
    if reader.training_start > reader.history_start:
        log.info("Rows to train on from %s; what is before feeds their features.", reader.training_start.isoformat())
    for name, table in reader.tables.items():
        if table.time is None:
            log.info("%s, version %d: %d rows.", name, table.version, table.rows)
            continue
        parts: tuple[Part, ...] = ("interval", "history")
        counts = [
            f"{reader.rows(name, part)} rows in {len(reader.files(name, part))} files of the {part}" for part in parts
        ]
        log.info("%s, version %d: %s.", name, table.version, ", ".join(counts))
        held = {file.day for file in table.files}
        for part in parts:
            missing = [day for day in reader.days(part) if day.isoformat() not in held]
            if missing:
                log.warning("%s has nothing of %s, days of the %s.", name, _in_words(missing), part)
    judged = {path for name in reader.tables for path in reader.files(name, "interval")}
    history = sum(reader.lake / file.path not in judged for file in verifier.read)
    log.info(
        "Read %d bytes in %d files of the interval and static tables and %d of the history; "
        "%d files of the history were verified before.",
        sum(file.bytes for file in verifier.read),
        len(verifier.read) - history,
        history,
        len(verifier.known),
    )


def _in_words(days: Sequence[date]) -> str:
    """Days in order, those that follow each other as one span."""
    spans: list[list[date]] = []
    for day in days:
        if spans and day == spans[-1][-1] + timedelta(days=1):
            spans[-1].append(day)
        else:
            spans.append([day])
    return ", ".join(f"{span[0]} to {span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)
