"""Streams whose messages are rows of a table of the lake, one event each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from streaming.windows import replay
from streaming.windows.messages import WRONG_SCHEMA, BadMessage, Event, Message, json_reader


@dataclass(frozen=True)
class TableEvents:
    """Reads the messages, and makes them of the lake's rows; its methods are `parse` and `replay` of a declaration.

    Args:
      table: Name of the table.
      message: A message, a `msgspec.Struct`: `schema`, and columns of the table.
      at: Its field with the instant from which the row is known.
      identity: Its field, a text, that versions of one row have in common; the message's key.
      values: Its fields that measures are made of, numbers.
      clock: Its field with a time on the clock, ISO 8601, that gives the fields of keys `weekday` ("0" is Monday) and
        `hour`; "" for none.
    """

    table: str
    message: type[msgspec.Struct]
    at: str
    identity: str
    values: tuple[str, ...]
    clock: str = ""

    def parse(self, message: Message) -> Event:
        """A row as an event.

        Raises:
          BadMessage: The message is none of the form, or its time on the clock is none.
        """
        row = msgspec.structs.asdict(self._read(message.value))
        fields = self._fields(row[self.clock]) if self.clock else {}
        return Event(row[self.at].timestamp(), fields, {name: row[name] for name in self.values}, row[self.identity])

    def messages(self, lake: Path, start: datetime, end: datetime) -> Iterator[Message]:
        """The lake's rows as they were published, each when it became known.

        Raises:
          TerminalError: The lake has no such rows.
        """
        names = self.message.__struct_fields__
        for row in replay.rows(lake, self.table, self.at, start, end):
            content = msgspec.json.encode({name: row[name] if name != "schema" else 1 for name in names})
            yield Message(row[self.identity].encode(), content, round(row[self.at].timestamp() * 1000))

    @functools.cached_property
    def _read(self) -> Callable[[bytes], Any]:
        return json_reader(self.message)

    def _fields(self, clock: str) -> dict[str, str]:
        try:
            time = datetime.fromisoformat(clock)
        except ValueError as error:
            raise BadMessage(WRONG_SCHEMA, f"{self.clock}: {error}") from None
        return {"weekday": str(time.weekday()), "hour": str(time.hour)}
