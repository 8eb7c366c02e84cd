"""Records of a stream's tables in Redis.

Under the stream's prefix:

    records:<table>                          hash by key and part: the part's minute, its places, its columns as JSON
    order:<table>:<order>:<equal values>     sorted set of keys by the order's number
    newest:<table>                           sorted set of keys by the minute at which something last became known
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

from streaming.windows.tables import Get, Order, Range, Record, Table, Values

_PUT = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held then
  local known, places = string.match(held, '^(%-?%d+)\\n([^\\n]*)\\n')
  if tonumber(known) > tonumber(ARGV[2]) then return 0 end
  for place in string.gmatch(places, '[^\\t]+') do redis.call('ZREM', place, ARGV[3]) end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. '\\n' .. table.concat(KEYS, '\\t', 3) .. '\\n' .. ARGV[4])
redis.call('ZADD', KEYS[2], 'GT', ARGV[2], ARGV[3])
for place = 3, #KEYS do redis.call('ZADD', KEYS[place], ARGV[place + 3], ARGV[3]) end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[5]) end
return 1
"""
"""Puts one part unless a newer one is there, and moves the record to its places in the orders."""
FORGOTTEN_AT_ONCE = 1000
_ESCAPED = str.maketrans({"%": "%25", "|": "%7C", "\t": "%09", "\n": "%0A"})
"""What stands between values, keys and lines."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class RedisRecords:
    """See the module.

    Args:
      client: Of Redis.
      key: Makes a key of the stream of its parts.
      tables: Of the stream.
      keep_s: What is not written to expires after so many seconds.
    """

    def __init__(self, client: Any, key: Callable[..., str], tables: Sequence[Table], keep_s: int) -> None:
        self._client, self._key, self._keep_s = client, key, keep_s
        self._tables = {table.name: table for table in tables}
        self._put = client.register_script(_PUT)

    def upsert(self, records: Sequence[Record]) -> None:
        """See `store.Store`."""
        with self._client.pipeline(transaction=True) as pipe:
            for record in records:
                table = self._tables[record.table]
                name = _joined(record.values[column] for column in table.key)
                for columns in table.parts_of(record.values):
                    self._put_part(pipe, table, name, {column: record.values[column] for column in columns})
            pipe.execute()

    def ask(self, pipe: Any, query: Get | Range) -> None:
        """Puts into a pipeline what `answer` needs."""
        if isinstance(query, Get):
            self._ask_record(pipe, query.table, _joined(query.key))
        else:
            place = self._place(query.table, query.order, query.equal)
            pipe.zrangebyscore(place, query.start, f"({query.end}")

    def answer(self, query: Get | Range, reply: Any) -> Any:
        """The answer to a query, by what the pipeline gave for it."""
        table = self._tables[query.table]
        if isinstance(query, Get):
            return _record(table, _joined(query.key), reply)
        names = [name.decode() for name in reply]
        with self._client.pipeline(transaction=True) as pipe:
            for name in names:
                self._ask_record(pipe, query.table, name)
            records = [_record(table, name, parts) for name, parts in zip(names, pipe.execute(), strict=True)]
        # One may have been moved or forgotten meanwhile.
        return [record for record in records if record and query.start <= (record[query.order.by] or 0) < query.end]

    def forget(self, minute: int) -> None:
        """Removes records of which nothing became known at a minute or later."""
        for table in self._tables.values():
            newest = self._key("newest", table.name)
            while names := self._client.zrangebyscore(newest, "-inf", minute, start=0, num=FORGOTTEN_AT_ONCE):
                fields = [f"{name.decode()}/{known}" for name in names for known in table.parts]
                held = self._client.hmget(self._key("records", table.name), fields)
                with self._client.pipeline(transaction=True) as pipe:
                    for field, part in zip(fields, held, strict=True):
                        for place in part.decode().split("\n")[1].split("\t") if part else ():
                            if place:
                                pipe.zrem(place, field.rpartition("/")[0])
                    pipe.hdel(self._key("records", table.name), *fields)
                    pipe.zrem(newest, *names)
                    pipe.execute()

    def _put_part(self, pipe: Any, table: Table, name: str, part: Values) -> None:
        known = next(iter(part))
        places = {
            self._place(table.name, order, [part[column] for column in order.equal]): part[order.by]
            for order in table.orders
            if order.by in part and part[order.by] is not None
        }
        self._put(
            keys=[self._key("records", table.name), self._key("newest", table.name), *places],
            args=[f"{name}/{known}", part[known], name, _encode(part), self._keep_s, *places.values()],
            client=pipe,
        )

    def _ask_record(self, pipe: Any, table: str, name: str) -> None:
        pipe.hmget(self._key("records", table), [f"{name}/{known}" for known in self._tables[table].parts])

    def _place(self, table: str, order: Order, equal: Sequence[Any]) -> str:
        return self._key("order", table, order.name, _joined(equal))


def _record(table: Table, name: str, parts: Sequence[bytes | None]) -> dict[str, Any] | None:
    """A record by all its columns, of its parts; None where there are none."""
    if not any(parts):
        return None
    key = zip(table.key.items(), map(unquote, name.split("|")), strict=True)
    record: dict[str, Any] = dict.fromkeys(table.columns) | {column: kind(text) for (column, kind), text in key}
    for part in parts:
        if part:
            record |= _decode(part.split(b"\n", 2)[2])
    return record


def _joined(values: Sequence[Any] | Iterator[Any]) -> str:
    return "|".join(str(value).translate(_ESCAPED) for value in values)
