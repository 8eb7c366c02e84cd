"""The store of a stream in Redis, for several hosts.

Under the prefix `airtight:{<stream>}:`, whose braces keep a stream on one node of a cluster:

    layout                               string
    watermark                            sorted set of one minute, which only grows
    birth                                string, the token of the store
    whole_from                           string, a minute, where the store lost what was before
    <group>:<key>:<minutes>              sorted set by first minute: JSON of it and of the totals

and the records of `redis_records`.
A key that nothing is written to expires when its values are older than what the stream keeps.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from airtight.errors import TerminalError, TransientError
from streaming.windows.arithmetic import sum_of
from streaming.windows.declaration import Stream
from streaming.windows.redis_records import RedisRecords
from streaming.windows.store import FOREVER, Birth, Newest, Query, Row, Span, Store
from streaming.windows.tables import Get, Range, Record

TIMEOUT_S = 10.0
DAY_S = 86_400
MINUTES_A_DAY = 24 * 60
LOST = "What it lost comes back when the stream is read again from the beginning of its topics, with --anew."
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Any]).decode


class RedisStore(Store):
    """See the module.

    Args:
      url: `redis://host:port/db`.
      stream: The declaration.
    """

    def __init__(self, url: str, stream: Stream) -> None:
        try:
            import redis
        except ImportError as error:
            raise TerminalError(
                "The client of Redis is not installed.",
                expected="the package redis",
                received=str(error),
                remedy="Install it, or choose a path as the store's address.",
            ) from error
        self._redis, self._url, self._stream = redis, url, stream
        self._client: Any = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        self._layout = " ".join(f"{measure.kind}:{measure.name}" for measure in stream.measures).encode()
        self._keep_s = stream.keep_days * DAY_S
        self._records = RedisRecords(self._client, self._key, stream.tables, self._keep_s)
        self._checked = False

    def write(self, rows: Sequence[Row]) -> None:
        """See `Store`."""
        with self._faults():
            self._check()
            known = self._watermark()
            with self._client.pipeline(transaction=True) as pipe:
                for row in rows:
                    key = self._key(row.group, row.key, str(row.minutes))
                    pipe.zremrangebyscore(key, row.start, row.start)
                    if row.totals[0]:
                        pipe.zadd(key, {_encode([row.start, *row.totals]): row.start})
                    if known is not None:
                        pipe.zremrangebyscore(key, "-inf", known - self._stream.keep_days * MINUTES_A_DAY - row.minutes)
                    pipe.expire(key, self._keep_s)
                pipe.execute()

    def upsert(self, records: Sequence[Record]) -> None:
        """See `Store`."""
        with self._faults():
            self._check()
            self._records.upsert(records)

    def advance(self, minute: int) -> None:
        """See `Store`."""
        with self._faults():
            self._check()
            known = self._watermark()
            if self._stream.tables and (known is None or known // MINUTES_A_DAY < minute // MINUTES_A_DAY):
                self._records.forget(minute - self._stream.keep_days * MINUTES_A_DAY)
            self._client.zadd(self._key("watermark"), {"minute": minute}, gt=True)
            self._client.expire(self._key("watermark"), self._keep_s)

    def watermark(self) -> int | None:
        """See `Store`."""
        with self._faults():
            return self._watermark()

    def birth(self) -> Birth:
        """See `Store`. Who lost all keys has lost the layout, too."""
        with self._faults():
            self._checked = False
            self._check()
            self._client.set(self._key("birth"), uuid.uuid4().hex, nx=True)
            return Birth(self._client.get(self._key("birth")).decode(), self._watermark(), self._whole_from())

    def set_whole_from(self, minute: int) -> None:
        """See `Store`."""
        with self._faults():
            self._client.set(self._key("whole_from"), minute)

    def whole_from(self) -> int | None:
        """See `Store`."""
        with self._faults():
            return self._whole_from()

    def read(self, queries: Sequence[Query]) -> list[Any]:
        """See `Store`."""
        with self._faults(), self._client.pipeline(transaction=True) as pipe:
            for query in queries:
                if isinstance(query, Get | Range):
                    self._records.ask(pipe, query)
                    continue
                key = self._key(query.group, query.key, "1")
                if isinstance(query, Span):
                    pipe.zrangebyscore(key, query.start, f"({query.end}")
                else:
                    pipe.zrevrangebyscore(key, f"({query.end}", query.start, start=0, num=1)
            return [self._answer(query, reply) for query, reply in zip(queries, pipe.execute(), strict=True)]

    def windows(self, group: str, key: str, minutes: int, start: int, end: int) -> list[Row]:
        """See `Store`."""
        with self._faults():
            members = self._client.zrangebyscore(self._key(group, key, str(minutes)), start, f"({end}")
        return [self._row(group, key, minutes, member) for member in members]

    def rows(self, minutes: int = 1, start: int = 0, end: int = FOREVER) -> list[Row]:
        """See `Store`; of one moment for each key alone."""
        rows: list[Row] = []
        with self._faults():
            for group in self._stream.groups:
                begin, tail = self._key(group.name, ""), f":{minutes}"
                for name in {name.decode() for name in self._client.scan_iter(f"{begin}*{tail}")}:
                    key = name.removeprefix(begin).removesuffix(tail)
                    members = self._client.zrangebyscore(name, start, f"({end}")
                    rows += [self._row(group.name, key, minutes, member) for member in members]
        return sorted(rows, key=lambda row: row[:3])

    def close(self) -> None:
        """See `Store`."""
        self._client.close()

    def _key(self, *parts: str) -> str:
        return ":".join((f"airtight:{{{self._stream.name}}}", *parts))

    def _watermark(self) -> int | None:
        value = self._client.zscore(self._key("watermark"), "minute")
        return None if value is None else int(value)

    def _whole_from(self) -> int | None:
        value = self._client.get(self._key("whole_from"))
        return None if value is None else int(value)

    def _answer(self, query: Query, reply: Any) -> Any:
        if isinstance(query, Get | Range):
            return self._records.answer(query, reply)
        if isinstance(query, Newest):
            return self._row(query.group, query.key, 1, reply[0]) if reply else None
        return sum_of(self._stream.measures, (self._row("", "", 1, member).totals for member in reply))

    def _row(self, group: str, key: str, minutes: int, member: bytes) -> Row:
        start, count, *totals = _decode(member)
        # JSON has numbers of parts as texts.
        values = ({int(part): n for part, n in of.items()} if isinstance(of, dict) else of for of in totals)
        return Row(group, key, start, minutes, (count, *values))

    def _check(self) -> None:
        """Refuses a server that forgets by itself, and totals of other measures."""
        if self._checked:
            return
        # Not CONFIG, which many servers forbid.
        policy = self._client.info("memory").get("maxmemory_policy", "not known")
        if policy != "noeviction":
            raise TerminalError(
                f"The Redis of the stream {self._stream.name} would forget totals when its memory is full.",
                expected="maxmemory-policy noeviction",
                received=policy,
                remedy="Set it so, and let INFO say so; or name another server.",
            )
        self._client.set(self._key("layout"), self._layout, nx=True)
        if (held := self._client.get(self._key("layout"))) != self._layout:
            raise TerminalError(
                f"The Redis of the stream {self._stream.name} holds totals of other measures.",
                expected=self._layout.decode(),
                received=held.decode(),
                remedy=f"Remove the keys {self._key('*')}, and start the stream with --anew.",
            )
        self._checked = True

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except self._redis.RedisError as error:
            raise TransientError(
                f"The store of the stream {self._stream.name} cannot be used now.",
                expected=f"a Redis at {self._url.rpartition('@')[2]}",
                received=f"{type(error).__name__}: {error}",
                remedy=f"Start it, or correct its address. {LOST}",
            ) from error
