"""Where the hours of a stream go: into the online store, into the lake, and last into the account of what is written.

Writing an hour again changes nothing, and an hour of fewer messages than are there already is passed over: so a stream
that begins again somewhere before its end does no harm. Hours that come together are written together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airtight.errors import TerminalError
from airtight.files import new_file
from streaming.accounts import Accounts
from streaming.queries import Hour, Totals
from streaming.store import Store

SCHEMA = pa.schema(
    {
        "group": pa.dictionary(pa.int32(), pa.string()),
        "key": pa.string(),  # The parts joined by "|".
        "minute": pa.timestamp("us", tz="UTC"),
        "count": pa.int64(),
        "late": pa.int64(),
        "minutes": pa.int64(),  # The sum of the delays.
        "largest": pa.int64(),  # Minutes: the greatest delay.
    }
)
"""Totals in the lake."""
MESSAGES = b"messages"
"""In the metadata of a file's schema: of how many messages it is made."""
AT_ONCE = 10_000
"""Hours of so many messages together are written at once, however many more the engine brings."""
_MICROS = 60_000_000


class WholeHour(Protocol):
    """What a pipeline knows of an hour."""

    @property
    def number(self) -> int:
        """Hours since 1970."""

    @property
    def over(self) -> bool:
        """Whether the hour is over."""

    @property
    def messages(self) -> int:
        """Of how many messages it is made."""

    @property
    def watermark(self) -> int | None:
        """The minute since 1970 to which the whole log had come, or None."""

    @property
    def totals(self) -> Sequence[Totals]:
        """By group."""

    @property
    def rows(self) -> Mapping[str, list[dict[str, Any]]] | None:
        """Facts by table."""


def path_of(root: Path, hour: int) -> Path:
    """The file of an hour since 1970, `date=YYYY-MM-DD/hour=HH.parquet`, UTC."""
    begin = datetime.fromtimestamp(hour * 3600, UTC)
    return root / f"date={begin:%Y-%m-%d}" / f"hour={begin:%H}.parquet"


def messages_in(path: Path) -> int:
    """Of how many messages a file is made; 0 when it is not there."""
    try:
        return int((pq.read_schema(path).metadata or {}).get(MESSAGES, 0))
    except FileNotFoundError:
        return 0


def write_parquet(root: Path, hour: WholeHour) -> bool:
    """Writes an hour's totals into the lake, whole or not at all.

    Args:
      root: Folder of the files.
      hour: The hour.

    Returns:
      Whether it was taken; not when the file is made of more messages.

    Raises:
      TransientError: The disk is full.
    """
    path = path_of(root, hour.number)
    if messages_in(path) > hour.messages:
        return False
    sizes = [len(each.keys) for each in hour.totals]
    groups = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)

    def column(name: str) -> pa.Array:
        held = [getattr(each, name) for each in hour.totals]
        return pa.array(np.concatenate(held) if held else np.zeros(0, np.int64))

    numbers = {name: column(name) for name in SCHEMA.names[2:]}
    numbers["minute"] = pc.multiply(numbers["minute"], _MICROS).cast(SCHEMA.field("minute").type)
    arrays = [
        pa.DictionaryArray.from_arrays(groups, pa.array([each.group for each in hour.totals], pa.string())),
        pa.array([key for each in hour.totals for key in each.keys], pa.string()),
        *numbers.values(),
    ]
    schema = SCHEMA.with_metadata({MESSAGES: str(hour.messages).encode()})
    with new_file(path) as temporary:
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), temporary)
    return True


class Sink:
    """Writes hours.

    Args:
      store: The online store, or None.
      lake: Folder of the totals' files, or None.
      accounts: The stream's accounts, or None.
    """

    def __init__(self, store: Store | None, lake: Path | None, accounts: Accounts | None) -> None:
        self._store, self._lake, self._accounts = store, lake, accounts

    def write(self, hours: Sequence[WholeHour]) -> list[int]:
        """Writes hours as far as they are known; only those that are over, into the lake and into the account.

        The store gets all or none of them. The account is told last, so that whatever ends this before is made good by
        reading those hours again.

        Args:
          hours: Each once.

        Returns:
          The numbers of those that were written; not of those of which more was written before.

        Raises:
          TerminalError: An hour lacks something.
          TransientError: Store or disk are away or full; the stream goes on where it stopped.
        """
        accounts = self._accounts
        fuller = [hour for hour in hours if accounts is None or accounts.written(hour.number) <= hour.messages]
        over = [hour for hour in fuller if hour.over]
        if self._store is not None and fuller:
            self._store.put_hours(list(map(_told, fuller)))
        if self._lake is not None:
            for hour in over:
                write_parquet(self._lake, hour)
        if accounts is not None and over:
            accounts.write_hours({hour.number: hour.messages for hour in over})
        return [hour.number for hour in fuller]

    def close(self) -> None:
        """Lets go of store and accounts."""
        for each in (self._store, self._accounts):
            if each is not None:
                each.close()


def _told(hour: WholeHour) -> Hour:
    """As the store wants it."""
    if hour.rows is None:
        raise TerminalError(
            "An hour came to the sink half-made.",
            expected="totals and facts",
            received=f"hour {hour.number} without facts",
            remedy="Let the pipeline add them before its sink.",
        )
    return Hour(hour.number, hour.messages, hour.totals, hour.rows, hour.watermark)


class WriteHours(beam.PTransform):
    """Writes hours: those that the engine brings together, together, before it takes them for done.

    Args:
      store: Opens the online store; None for none.
      lake: Folder of the totals' files, or None.
      accounts: The accounts' file, or None.
    """

    def __init__(self, store: Callable[[], Store] | None, lake: Path | None, accounts: Path | None) -> None:
        super().__init__()
        self._write = _Write(store, lake, accounts)

    def expand(self, hours: beam.PCollection[Any]) -> beam.PCollection[None]:
        """See the class; nothing comes of it."""
        return hours | "write" >> beam.ParDo(self._write)


class _Write(beam.DoFn):
    def __init__(self, store: Callable[[], Store] | None, lake: Path | None, accounts: Path | None) -> None:
        self._paths = (store, lake, accounts)

    def setup(self) -> None:
        store, lake, accounts = self._paths
        self._sink = Sink(store and store(), lake, None if accounts is None else Accounts(accounts))

    def start_bundle(self) -> None:
        self._held: dict[int, WholeHour] = {}
        self._messages = 0

    def process(self, hour: WholeHour) -> None:
        # Of an hour that comes several times the fullest is enough.
        before = self._held.get(hour.number)
        if before is None or before.messages <= hour.messages:
            self._held[hour.number] = hour
            self._messages += hour.messages - (before.messages if before else 0)
        if self._messages >= AT_ONCE:
            self.finish_bundle()
            self.start_bundle()

    def finish_bundle(self) -> None:
        self._sink.write(list(self._held.values()))

    def teardown(self) -> None:
        self._sink.close()
