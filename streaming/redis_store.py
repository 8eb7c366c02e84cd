"""The online store in Redis, for several machines: the same promises as `streaming.store.SqliteStore`.

Under a prefix it keeps

    told                        hash: the watermark, and how all of this is laid out
    hours                       hash: of each hour how many messages it is made of, for good
    hour:<hour>                 the keys of the totals that were made of them, JSON
    totals:<group>:<key>        sorted set by minute: `Minute`
    facts:<table>:<key>         hash: the row, values as JSON
    order:<table>:<columns>:<values>    sorted set by the last column: of each row its key and what is beside it, JSON

Totals are running ones, so that a window of any length is the difference of two minutes, and what comes late changes
the minutes behind it. Hours are written by one transaction, which is tried again when another writer got in between. A
key expires for good when nothing has touched it for as long as its values are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import orjson

from airtight.errors import TerminalError, TransientError
from streaming.queries import Count, Get, Hour, Last, Order, Query, Range, Row, Table, Totals
from streaming.running import Minute
from streaming.store import HOUR, KEEP_MINUTES, Store, accepted

LAYOUT = "running totals"
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
            return self._watermark(self._client)

    def read(self, queries: Sequence[Query]) -> list[Any]:
        """See `streaming.store.Store`; by one exchange with the server, and another for rows that are asked for whole.

        Unlike SQLite's, the answers of both may be of two moments, before and after an hour was written.
        """
        with self._faults():
            asked = [self._asked(query) for query in queries]
            told = iter(self._ask([ask for asks in asked for ask in asks]))
            answers = [
                self._answer(query, list(islice(told, len(asks)))) for query, asks in zip(queries, asked, strict=True)
            ]
            wholes = [
                (answer, query)
                for query, answer in zip(queries, answers, strict=True)
                if isinstance(query, Range) and not self._covered(query)
            ]
            found = self._rows({self._name(query.table, row) for rows, query in wholes for row in rows})
        for rows, query in wholes:
            rows[:] = [found[name] for row in rows if (name := self._name(query.table, row)) in found]
        return [self._kept(query, answer) for query, answer in zip(queries, answers, strict=True)]

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
        # Every writer changes `hours`.
        pipe.watch(messages, *of_hours, told, *(self._row_key(*name) for name in self._merged(hours)))
        held = {number: int(each or 0) for number, each in zip(numbers, pipe.hmget(messages, numbers), strict=True)}
        keys_before = dict(zip(numbers, pipe.mget(of_hours), strict=True))
        before = self._watermark(pipe)
        answers, now = accepted(hours, held, before, self._keep)
        taken = [hour for hour, ok in zip(hours, answers, strict=True) if ok]
        facts = self._merged(taken)
        rows_before = self._rows(facts)
        last = {hour.number: hour for hour in taken}
        made = {number: self._minutes(hour.totals) for number, hour in last.items()}
        emptied = {number: orjson.loads(keys_before[number] or "[]") for number in last}
        running = self._running(made, emptied)
        pipe.multi()
        for number, hour in last.items():
            pipe.set(self._key("hour", number), orjson.dumps(list(made[number])).decode(), ex=self._keep * 60)
            pipe.hset(messages, str(number), hour.messages)
        for key, (first, minutes) in running.items():
            pipe.zremrangebyscore(key, first, "+inf")
            if minutes:
                pipe.zadd(key, {str(each): each.minute for each in minutes})
            pipe.zremrangebyscore(key, "-inf", f"({(now or 0) - self._keep}")
        # Those that are left alone, too, live as long as the hour that says that they are there.
        for key in dict.fromkeys(key for of_hour in made.values() for key in of_hour):
            pipe.expire(key, self._keep * 60)
        for name, parts in facts.items():
            self._put_row(pipe, name, rows_before.get(name), parts)
        if now is not None and now != before:
            pipe.hset(told, mapping={"watermark": now, "layout": LAYOUT})
        pipe.execute()
        return answers

    def _minutes(self, totals: Sequence[Totals]) -> dict[str, list[Minute]]:
        """The minutes of an hour by the keys of their sorted sets; they do not run on yet."""
        minutes: dict[str, list[Minute]] = {}
        for each in totals:
            for key, *numbers in zip(each.keys, *(array.tolist() for array in each[2:]), strict=True):
                minutes.setdefault(self._key("totals", each.group, key), []).append(Minute(*numbers))
        return minutes

    def _running(
        self, made: Mapping[int, Mapping[str, Sequence[Minute]]], emptied: Mapping[int, Iterable[str]]
    ) -> dict[str, tuple[int, list[Minute]]]:
        """By key the first minute from which on its totals change, and what they are from there; keys that change.

        Args:
          made: Of the hours that are written the new minutes by key.
          emptied: Of the same hours the keys that the store has.
        """
        if not made:
            return {}
        start, end = min(made) * HOUR, (max(made) + 1) * HOUR
        keys = list(dict.fromkeys(key for number in made for key in (*made[number], *emptied[number])))
        changed: dict[str, list[Minute]] = {}
        for key, told in zip(keys, self._ask([_members(key, start, end) for key in keys]), strict=True):
            there = list(map(Minute.read, told))
            after = [each for each in there if each.minute // HOUR not in made]
            after = sorted(after + [each for of_hour in made.values() for each in of_hour.get(key, ())])
            # Where a stream starts again, most of what it writes is there already.
            if [each.own for each in there] != [each.own for each in after]:
                changed[key] = after
        told = iter(
            self._ask([ask for key in changed for ask in (_newest(key, "-inf", start), _members(key, end, "+inf"))])
        )
        running: dict[str, tuple[int, list[Minute]]] = {}
        for (key, after), before, behind in zip(changed.items(), told, told, strict=True):
            at = Minute.read(before[0]) if before else None
            running[key] = start, [at := each.after(at) for each in (*after, *map(Minute.read, behind))]
        return running

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
            was, of_now = (self._place(table, order, row) for row in (before or {}, after))
            if was and was != of_now:
                pipe.zrem(was[0], was[1])
            if of_now:
                pipe.zadd(of_now[0], {of_now[1]: of_now[2]})
                pipe.zremrangebyscore(of_now[0], "-inf", f"({of_now[2] - self._keep}")
                pipe.expire(of_now[0], self._keep * 60)

    def _place(self, table: Table, order: Order, row: Row) -> tuple[str, str, int] | None:
        """The sorted set of an order in which a row is, what stands for it there, and its score."""
        if row.get(order.by) is None:
            return None
        member = orjson.dumps([row.get(name) for name in _beside(table, order)]).decode()
        return self._order_key(table.name, order, [row[name] for name in order.equal]), member, row[order.by]

    def _order_key(self, table: str, order: Order, equal: Iterable[Any]) -> str:
        return self._key("order", table, order.name, _joined(equal))

    def _asked(self, query: Query) -> list[Callable[[Any], Any]]:
        """What to put into a pipeline."""
        if isinstance(query, Get):
            return [self._asked_row(query.table, _joined(query.key))]
        if isinstance(query, Range | Count):
            order = self._order_key(query.table, query.order, query.equal)
            if isinstance(query, Count):
                return [lambda pipe: pipe.zcount(order, query.start, f"({query.end}")]
            return [_members(order, query.start, query.end)]
        totals = self._key("totals", query.group, query.key)
        newest = _newest(totals, query.start, query.end)
        if isinstance(query, Last):
            return [newest]
        return [newest, lambda pipe: pipe.zrangebyscore(totals, query.start, f"({query.end}", start=0, num=1)]

    def _asked_row(self, table: str, key: str) -> Callable[[Any], Any]:
        return lambda pipe: pipe.hgetall(self._row_key(table, key))

    def _answer(self, query: Query, told: Sequence[Any]) -> Any:
        """Of what the server told; of a range, rows of the columns that are in its order."""
        if isinstance(query, Get):
            return self._row(query.table, told[0])
        if isinstance(query, Range):
            columns = _beside(self._tables[query.table], query.order)
            return [dict(zip(columns, orjson.loads(member), strict=True)) for member in told[0]]
        if isinstance(query, Count):
            return told[0]
        newest = Minute.read(told[0][0]) if told[0] else None
        if isinstance(query, Last):
            return (newest.minute, newest.largest) if newest else None
        return newest.since(Minute.read(told[1][0])) if newest else (0, 0, 0)

    def _kept(self, query: Query, answer: Any) -> Any:
        """An answer without the rows that the query leaves out."""
        if not isinstance(query, Range) or query.unless is None:
            return answer
        column, least = query.unless
        return [row for row in answer if row[column] is None or row[column] >= least]

    def _covered(self, query: Range) -> bool:
        """Whether an order holds all columns that are asked for."""
        asked = {*(query.columns or self._tables[query.table].columns), *(query.unless or ())[:1]}
        return asked <= set(_beside(self._tables[query.table], query.order))

    def _name(self, table: str, row: Row) -> tuple[str, str]:
        """Of a row, by which `_rows` finds it."""
        return table, _joined(row[column] for column in self._tables[table].key)

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

    def _watermark(self, client: Any) -> int | None:
        """That of the store; raises TerminalError where it is laid out in another way."""
        told, layout = client.hmget(self._key("told"), ["watermark", "layout"])
        if told is not None and layout != LAYOUT:
            raise TerminalError(
                "The online store is laid out in another way.",
                expected=LAYOUT,
                received=layout or "no layout",
                remedy=f"Remove all keys {self._prefix}* and start the stream at the beginning of what it needs.",
            )
        return None if told is None else int(told)

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


def _members(key: str, start: Any, end: Any) -> Callable[[Any], Any]:
    """Asks for a sorted set's members in [start, end)."""
    return lambda pipe: pipe.zrangebyscore(key, start, _before(end))


def _newest(key: str, start: Any, end: Any) -> Callable[[Any], Any]:
    """Asks for the last of them."""
    return lambda pipe: pipe.zrevrangebyscore(key, _before(end), start, start=0, num=1)


def _before(end: Any) -> Any:
    return f"({end}" if isinstance(end, int) else end


def _beside(table: Table, order: Order) -> tuple[str, ...]:
    """The columns of a row that stand in the sorted set of an order."""
    return tuple(dict.fromkeys((*table.key, *order.equal, order.by, *order.beside)))


def _joined(values: Iterable[Any]) -> str:
    return "|".join(map(str, values))
