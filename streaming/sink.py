"""Where the hours of a stream go: into the online store, into the lake, and last into the account of what is written.

Writing an hour again changes nothing, and an hour of fewer messages than are there already is passed over: so a stream
that begins again somewhere before its end does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from streaming.queries import Totals
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

    def write(self, hour: WholeHour) -> bool:
        """Writes an hour as far as it is known; only when it is over, into the lake and into the account.

        Returns:
          Whether it was written; not when more of it was written before.

        Raises:
          TerminalError: The hour lacks something.
          TransientError: Store or disk are away or full; the stream goes on where it stopped.
        """
        if hour.rows is None:
            raise TerminalError(
                "An hour came to the sink half-made.",
                expected="totals and facts",
                received=f"hour {hour.number} without facts",
                remedy="Let the pipeline add them before its sink.",
            )
        if self._accounts is not None and self._accounts.written(hour.number) > hour.messages:
            return False
        if self._store is not None:
            self._store.put_hour(hour.number, hour.messages, hour.totals, hour.rows, hour.watermark)
        if hour.over:
            if self._lake is not None:
                write_parquet(self._lake, hour)
            if self._accounts is not None:
                self._accounts.write(hour.number, hour.messages)
        return True

    def close(self) -> None:
        """Lets go of store and accounts."""
        for each in (self._store, self._accounts):
            if each is not None:
                each.close()


class WriteHours(beam.PTransform):
    """Hours -> the numbers of those that were written.

    Args:
      store: Opens the online store; None for none.
      lake: Folder of the totals' files, or None.
      accounts: The accounts' file, or None.
    """

    def __init__(self, store: Callable[[], Store] | None, lake: Path | None, accounts: Path | None) -> None:
        super().__init__()
        self._write = _Write(store, lake, accounts)

    def expand(self, hours: beam.PCollection[Any]) -> beam.PCollection[int]:
        """See the class."""
        return hours | "write" >> beam.ParDo(self._write).with_output_types(int)


class _Write(beam.DoFn):
    def __init__(self, store: Callable[[], Store] | None, lake: Path | None, accounts: Path | None) -> None:
        self._paths = (store, lake, accounts)

    def setup(self) -> None:
        store, lake, accounts = self._paths
        self._sink = Sink(store and store(), lake, None if accounts is None else Accounts(accounts))

    def process(self, hour: WholeHour) -> Iterator[int]:
        if self._sink.write(hour):
            yield hour.number

    def teardown(self) -> None:
        self._sink.close()
