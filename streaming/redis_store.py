"""The online store in Redis, for several machines: the same promises as `streaming.store.SqliteStore`.

Under a prefix it keeps

    told                        hash: the watermark
    hours                       hash: of each hour how many messages it is made of, for good
    hour:<hour>                 the keys of the totals that were made of them, JSON
    totals:<group>:<key>        sorted set by minute: "minute:count:late:minutes:largest"
    facts:<table>:<key>         hash: the row, values as JSON
    order:<table>:<columns>:<values>    sorted set by the last column: keys of rows

Hours are written by one transaction, which is tried again when another writer got in between. A key expires for good
when nothing has touched it for as long as its values are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson

from airtight.errors import TerminalError, TransientError
from streaming.queries import Count, Get, Hour, Last, Order, Query, Range, Row, Sum, Table, Totals
from streaming.store import HOUR, KEEP_MINUTES, Store, accepted

TRIES = 20
"""Of a transaction that others got in between of."""
TIMEOUT_S = 5.0


class RedisStore(Store):
    """The store in a Redis server.

    Args:
      url: redis://host:port/db.
      tables: The facts that it holds.
      keep_minutes: What is older than this before the watermark expires.
      prefix: Of all its keys.
    """

    def __init__(
        self, url: str, tables: Sequence[Table] = (), keep_minutes: int = KEEP_MINUTES, prefix: str = "airtight:"
    ) -> None:
        try:
            import redis
        except ImportError as error:
            raise TerminalError(
                "The client of Redis is not installed.",
                expected="the package redis",
                received=str(error),
                remedy="Install it, or choose a path as the store's address.",
            ) from error
        self.url, self._tables, self._keep, self._prefix = (
            url,
            {table.name: table for table in tables},
            keep_minutes,
            prefix,
        )
        self._redis = redis
        self._client = redis.Redis.from_url(
            url, decode_responses=True, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
        )

    def put_hours(self, hours: Sequence[Hour]) -> list[bool]:
        """See `streaming.store.Store`."""
        if not hours:
            return []
        with self._faults():
            for _ in range(TRIES):
                try:
                    with self._client.pipeline() as pipe:
                        return self._put(pipe, hours)
                except self._redis.WatchError:
                    continue
        raise self._away(f"{TRIES} times another writer got in between")

    def messages(self, hour: int) -> int:
        """See `streaming.store.Store`."""
        with self._faults():
            return int(self._client.hget(self._key("hours"), str(hour)) or 0)

    def freshest(self) -> int | None:
        """See `streaming.store.Store`."""
        with self._faults():
            return _whole(self._client.hget(self._key("told"), "watermark"))

    def read(self, queries: Sequence[Query]) -> list[Any]:
        """See `streaming.store.Store`; by one exchange with the server, and another for the rows of ranges.

        Unlike SQLite's, the answers may be of two moments, before and after an hour was written.
        """
        with self._faults():
            answers = self._ask([self._asked(query) for query in queries])
            keys = {
                (query.table, key)
                for query, answer in zip(queries, answers, strict=True)
                if isinstance(query, Range)
                for key in answer
            }
            found = self._rows(keys)
        return [self._answer(query, answer, found) for query, answer in zip(queries, answers, strict=True)]

    def close(self) -> None:
        """See `streaming.store.Store`."""
        self._client.close()

    def _put(self, pipe: Any, hours: Sequence[Hour]) -> list[bool]:
        """One try; `pipe` has nothing in it yet."""
        numbers = list(dict.fromkeys(hour.number for hour in hours))
        of_hours, messages, told = (
            [self._key("hour", number) for number in numbers],
            self._key("hours"),
            self._key("told"),
        )
        # What is read from here on and changed by another before the end undoes all of it.
        pipe.watch(*of_hours, told, *(self._row_key(*name) for name in self._merged(hours)))
        held = {number: int(each or 0) for number, each in zip(numbers, pipe.hmget(messages, numbers), strict=True)}
        keys_before = dict(zip(numbers, pipe.mget(of_hours), strict=True))
        before = _whole(pipe.hget(told, "watermark"))
        answers, now = accepted(hours, held, before, self._keep)
        taken = [hour for hour, ok in zip(hours, answers, strict=True) if ok]
        facts = self._merged(taken)
        rows_before = self._rows(facts)
        pipe.multi()
        members: dict[str, dict[str, int]] = {}
        for number, hour in {hour.number: hour for hour in taken}.items():
            for key in orjson.loads(keys_before[number] or "[]"):
                pipe.zremrangebyscore(key, number * HOUR, number * HOUR + HOUR - 1)
            of_hour = self._members(hour.totals)
            for key, scored in of_hour.items():
                members.setdefault(key, {}).update(scored)
            pipe.set(self._key("hour", number), orjson.dumps(list(of_hour)).decode(), ex=self._keep * 60)
            pipe.hset(messages, str(number), hour.messages)
        for key, scored in members.items():
            pipe.zadd(key, scored)
            pipe.zremrangebyscore(key, "-inf", f"({(now or 0) - self._keep}")
            pipe.expire(key, self._keep * 60)
        for name, parts in facts.items():
            self._put_row(pipe, name, rows_before.get(name), parts)
        if now is not None and now != before:
            pipe.hset(told, "watermark", now)
        pipe.execute()
        return answers

    def _members(self, totals: Sequence[Totals]) -> dict[str, dict[str, int]]:
        """What the sorted sets of totals get, by their keys: members and their minutes."""
        members: dict[str, dict[str, int]] = {}
        for each in totals:
            for key, minute, *rest in zip(each.keys, *(array.tolist() for array in each[2:]), strict=True):
                name = self._key("totals", each.group, key)
                members.setdefault(name, {})[":".join(map(str, (minute, *rest)))] = minute
        return members

    def _merged(self, hours: Iterable[Hour]) -> dict[tuple[str, str], dict[str, Row]]:
        """By table and key of a row the newest of each of its parts, under the column of its minute."""
        merged: dict[tuple[str, str], dict[str, Row]] = {}
        for name, of_table in (each for hour in hours for each in hour.rows.items()):
            table = self._tables[name]
            for row in of_table:
                parts = merged.setdefault((name, _joined(row[column] for column in table.key)), {})
                for known, columns in table.parts_of(row):
                    if known not in parts or parts[known][known] <= row[known]:
                        parts[known] = {column: row[column] for column in (*table.key, *columns)}
        return merged

    def _put_row(self, pipe: Any, name: tuple[str, str], before: Row | None, parts: Mapping[str, Row]) -> None:
        table, key = self._tables[name[0]], self._row_key(*name)
        changed: dict[str, Any] = {}
        for known, part in parts.items():
            if before is None or before[known] is None or before[known] <= part[known]:
                changed |= part
        if not changed:
            return
        after = {**(before or {}), **changed}
        pipe.hset(key, mapping={column: orjson.dumps(value).decode() for column, value in changed.items()})
        pipe.expire(key, self._keep * 60)
        for order in table.orders:
            was, now = (self._place(table, order, row) for row in (before or {}, after))
            if was and was != now:
                pipe.zrem(was[0], name[1])
            if now:
                pipe.zadd(now[0], {name[1]: now[1]})
                pipe.zremrangebyscore(now[0], "-inf", f"({now[1] - self._keep}")
                pipe.expire(now[0], self._keep * 60)

    def _place(self, table: Table, order: Order, row: Row) -> tuple[str, int] | None:
        if row.get(order.by) is None:
            return None
        return self._key("order", table.name, order.name, _joined(row[name] for name in order.equal)), row[order.by]

    def _asked(self, query: Query) -> Callable[[Any], Any]:
        """What to put into a pipeline."""
        if isinstance(query, Get):
            return self._asked_row(query.table, _joined(query.key))
        if isinstance(query, Range | Count):
            order = self._key("order", query.table, query.order.name, _joined(query.equal))
            if isinstance(query, Count):
                return lambda pipe: pipe.zcount(order, query.start, f"({query.end}")
            return lambda pipe: pipe.zrangebyscore(order, query.start, f"({query.end}")
        totals = self._key("totals", query.group, query.key)
        if isinstance(query, Sum):
            return lambda pipe: pipe.zrangebyscore(totals, query.start, f"({query.end}")
        return lambda pipe: pipe.zrevrangebyscore(totals, f"({query.end}", query.start, start=0, num=1)

    def _asked_row(self, table: str, key: str) -> Callable[[Any], Any]:
        return lambda pipe: pipe.hgetall(self._row_key(table, key))

    def _answer(self, query: Query, answer: Any, found: Mapping[tuple[str, str], Row]) -> Any:
        if isinstance(query, Get):
            return self._row(query.table, answer)
        if isinstance(query, Range):
            rows = [found[query.table, key] for key in answer if (query.table, key) in found]
            if query.unless is None:
                return rows
            column, least = query.unless
            return [row for row in rows if row[column] is None or row[column] >= least]
        if isinstance(query, Count):
            return answer
        told = [tuple(map(int, member.split(":"))) for member in answer]
        if isinstance(query, Last):
            return (told[0][0], told[0][4]) if told else None
        return tuple(sum(each[column] for each in told) for column in (1, 2, 3))

    def _rows(self, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Row]:
        """The rows that are there, by table and key."""
        keys = list(keys)
        told = self._ask([self._asked_row(*name) for name in keys])
        rows = ((name, self._row(name[0], each)) for name, each in zip(keys, told, strict=True))
        return {name: row for name, row in rows if row is not None}

    def _row(self, table: str, told: Mapping[str, str]) -> dict[str, Any] | None:
        if not told:
            return None
        return {column: orjson.loads(told.get(column, "null")) for column in self._tables[table].columns}

    def _ask(self, asked: Sequence[Callable[[Any], Any]]) -> list[Any]:
        """One exchange; without questions, none."""
        if not asked:
            return []
        with self._client.pipeline(transaction=True) as pipe:
            for ask in asked:
                ask(pipe)
            return pipe.execute()

    def _key(self, *parts: object) -> str:
        return self._prefix + ":".join(map(str, parts))

    def _row_key(self, table: str, key: str) -> str:
        return self._key("facts", table, key)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except self._redis.RedisError as error:
            raise self._away(str(error)) from error

    def _away(self, received: str) -> TransientError:
        return TransientError(
            "The online store cannot be used now.",
            expected="an answer of the Redis server",
            received=received,
            remedy="See to the server, or correct its address.",
        )


def _joined(values: Iterable[Any]) -> str:
    return "|".join(map(str, values))


def _whole(told: str | bytes | None) -> int | None:
    return None if told is None else int(told)
