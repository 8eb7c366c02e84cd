"""A run's data set: which immutable files of the lake it reads, and the one way to read them.

`manifest.json` is flat: the lake, the zone, both ends of the interval, the start of the history and of the training
rows, the instant by which labels were known, the versions asked, and for each table its version, key, time, columns,
missing days and files (path, day, rows, bytes, sha256).

    history  = [history_start, interval_start)    what features look back on
    training = [training_start, interval_start)   what a run trains on, the end of the history
    interval = [interval_start, interval_end)     what it is judged on, by labels known before labels_known_by

A file holds a local day; where an end of the interval falls within a day, rows are cut by their instant when read.

Whoever reads, digests first what he reads: a node computes with the bytes that ingest saw, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from airtight.errors import TerminalError
from airtight.files import digest_of_file, write_text
from airtight.interval import Interval
from components.data.lake import ARROW_TYPES, SPARK_TYPES, File

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MANIFEST = "manifest.json"
"""The name of the manifest inside a `Dataset` artifact."""

Part = Literal["interval", "history", "all"]


@dataclass(frozen=True)
class TableFiles:
    """What a run reads of one table.

    Args:
      name: Name of the table.
      version: Version of the table in the lake.
      known_at: When that version became known, or None (see `components.data.lake.Version`).
      time: Column of the instant by which rows belong to a part; None for a static table.
      key: Columns that are unique together.
      columns: Name and Arrow type of each declared column, in order.
      missing_days: Local days of the interval of which the lake has nothing.
      files: Every file of history and interval, by day.
    """

    name: str
    version: int
    known_at: str | None
    time: str | None
    key: tuple[str, ...]
    columns: dict[str, str]
    missing_days: tuple[str, ...]
    files: tuple[File, ...]

    @property
    def rows(self) -> int:
        """Rows of all its files."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class DatasetReader:
    """The manifest of a run's data, and how to read what it names.

    Args:
      lake: Folder of the lake, absolute.
      zone: IANA name of the zone whose days are the partitions.
      interval: What the run is judged on.
      history_start: First instant of the history, which is read; the history ends where the interval starts.
      training_start: First instant of the rows to train on. What lies before it feeds their features only.
      labels_known_by: Labels of the interval that became known before this instant may judge.
      lake_version: Which versions were asked for: "now" or "then".
      tables: The tables, by name.
    """

    lake: Path
    zone: str
    interval: Interval
    history_start: datetime
    training_start: datetime
    labels_known_by: datetime
    lake_version: str
    tables: dict[str, TableFiles]

    @classmethod
    def open(cls, folder: Path | str) -> DatasetReader:
        """Reads the manifest in the folder of a `Dataset` artifact.

        Raises:
          TerminalError: There is no manifest.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise TerminalError(
                "The data set has no manifest.",
                expected=f"{path}, as ingest writes it",
                received="no such file",
                remedy="Run ingest again; the artifact was deleted or never finished.",
            )
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            Path(manifest["lake"]),
            manifest["zone"],
            Interval.of(manifest["interval_start"], manifest["interval_end"]),
            datetime.fromisoformat(manifest["history_start"]),
            # Manifests of before trained on the whole history, and judged by what was known at the interval's end.
            datetime.fromisoformat(manifest.get("training_start", manifest["history_start"])),
            datetime.fromisoformat(manifest.get("labels_known_by", manifest["interval_end"])),
            manifest["lake_version"],
            {name: _table_files(name, table) for name, table in manifest["tables"].items()},
        )

    def write(self, folder: Path | str) -> None:
        """Writes the manifest into the folder of a `Dataset` artifact, atomically."""
        manifest = {
            "lake": str(self.lake),
            "zone": self.zone,
            "interval_start": self.interval.start.isoformat(),
            "interval_end": self.interval.end.isoformat(),
            "history_start": self.history_start.isoformat(),
            "training_start": self.training_start.isoformat(),
            "labels_known_by": self.labels_known_by.isoformat(),
            "lake_version": self.lake_version,
            "digest": self.digest,
            "tables": {name: {**asdict(table), "rows": table.rows} for name, table in self.tables.items()},
        }
        write_text(Path(folder) / MANIFEST, json.dumps(manifest, indent=1))

    @property
    def digest(self) -> str:
        """SHA-256 of what is read: the instants, the columns and the bytes, wherever the lake lies."""
        # In UTC: an interval is the same one whether a schedule or a person wrote its offset.
        ends = (
            self.history_start,
            self.training_start,
            self.interval.start,
            self.interval.end,
            self.labels_known_by,
        )
        spans = [moment.astimezone(UTC).isoformat() for moment in ends]
        content = [[t.name, t.time, t.columns, [f.sha256 for f in t.files]] for t in self.tables.values()]
        return hashlib.sha256(json.dumps([spans, content]).encode()).hexdigest()

    def span(self, part: Part = "all") -> tuple[datetime, datetime]:
        """First instant of a part, and the first after it."""
        return (
            self.interval.start if part == "interval" else self.history_start,
            self.interval.start if part == "history" else self.interval.end,
        )

    def files(self, table: str, part: Part = "all") -> list[Path]:
        """Absolute paths of a table's files that hold rows of a part, by day; of a static table, its file.

        Raises:
          TerminalError: The data set has no such table.
        """
        return [self.lake / file.path for file in self._files(table, part)]

    def check(self, *tables: str, part: Part = "all") -> None:
        """Holds files to the manifest: each is there, and is byte for byte what ingest saw.

        Args:
          tables: Names of the tables; all of them when none is given.
          part: Of which part.

        Raises:
          TerminalError: A file was removed or replaced, or the data set has no such table.
        """
        for table in tables or self.tables:
            for file in self._files(table, part):
                path = self.lake / file.path
                digest = digest_of_file(path) if path.is_file() else None
                if digest != file.sha256:
                    raise _changed(file, digest, self.lake)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Holds all files to the manifest once more when the block ends, because Spark reads when it computes.

        Raises:
          TerminalError: A file was removed or replaced meanwhile; this is said, too, in place of what came of it.
        """
        try:
            yield
        finally:
            self.check()

    def days(self, part: Part = "all") -> list[date]:
        """Every local day that a part touches."""
        start, end = self.span(part)
        return list(Interval(start, end).days(self.zone)) if start < end else []

    def rows(self, table: str, part: Part = "all") -> int:
        """Rows in the files of a part; where an end falls within a day, the rows read are fewer."""
        return sum(file.rows for file in self._files(table, part))

    def spark_frame(self, spark: SparkSession, table: str, part: Part = "all") -> DataFrame:
        """The rows of a part as a Spark data frame, lazily: the declared columns, cut by instant.

        Works over Spark Connect, when the server sees the lake's folder under the same path. The files are checked now;
        compute within `unchanged`, so that they are checked after it, too.

        Raises:
          TerminalError: The data set has no such table, or a file was removed or replaced since ingest.
        """
        self.check(table, part=part)
        source = self._table(table)
        schema = ", ".join(f"`{name}` {SPARK_TYPES[kind]}" for name, kind in source.columns.items())
        paths = [str(path) for path in self.files(table, part)]
        frame = spark.read.schema(schema).parquet(*paths) if paths else spark.createDataFrame([], schema)
        if source.time is None:
            return frame
        start, end = (moment.isoformat() for moment in self.span(part))
        return frame.where(f"`{source.time}` >= timestamp'{start}' and `{source.time}` < timestamp'{end}'")

    def arrow_table(self, table: str, part: Part = "all", columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a part in memory: the declared columns, or some of them, cut by instant.

        Raises:
          TerminalError: The data set has no such table, or a file was removed or replaced since ingest.
        """
        self.check(table, part=part)
        source = self._table(table)
        schema = pa.schema({name: ARROW_TYPES[kind] for name, kind in source.columns.items()})
        data = pa.dataset.dataset([str(path) for path in self.files(table, part)], schema=schema, format="parquet")
        cut = None
        if source.time is not None:
            start, end = (pa.scalar(moment, schema.field(source.time).type) for moment in self.span(part))
            cut = (pc.field(source.time) >= start) & (pc.field(source.time) < end)
        return data.to_table(columns=list(columns or schema.names), filter=cut)

    def _table(self, table: str) -> TableFiles:
        if table not in self.tables:
            raise TerminalError(
                f"The data set has no table {table}.",
                expected=f"one of {', '.join(self.tables)}",
                received=repr(table),
                remedy="Declare the table where ingest finds the pipeline's tables.",
            )
        return self.tables[table]

    def _files(self, table: str, part: Part) -> Iterator[File]:
        source = self._table(table)
        if source.time is None:
            return iter(source.files)
        touched = {day.isoformat() for day in self.days(part)}
        return (file for file in source.files if file.day in touched)


def _changed(file: File, digest: str | None, lake: Path) -> TerminalError:
    day = f" of {file.day}" if file.day else ""
    return TerminalError(
        f"The lake's file{day}, {file.path}, was {'replaced' if digest else 'removed'} after ingest had seen it.",
        expected=f"sha256 {file.sha256}, as the manifest says",
        received=f"sha256 {digest}" if digest else "no such file",
        remedy=f"Put the file back, or write that day again from its source (the lake is {lake}), and clear this task. "
        "To take the lake as it is now, clear from ingest on.",
    )


def _table_files(name: str, entry: dict[str, Any]) -> TableFiles:
    files = tuple(File(**file) for file in entry["files"])
    fields = {k: entry[k] for k in ("version", "known_at", "time", "columns")}
    return TableFiles(name, key=tuple(entry["key"]), missing_days=tuple(entry["missing_days"]), files=files, **fields)
