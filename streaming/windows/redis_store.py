"""The store of a stream in Redis, for several hosts.

Under the prefix `airtight:{<stream>}:`, whose braces keep a stream on one node of a cluster:

    layout                               string
    watermark                            sorted set of one minute, which only grows
    <group>:<key>:<minutes>              sorted set by first minute: JSON of it and of the totals

A key that nothing is written to expires when its values are older than what the stream keeps.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from airtight.errors import TerminalError, TransientError
from streaming.windows.declaration import Stream
from streaming.windows.store import Row, Span, Store

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
        self._kinds = [measure.kind for measure in stream.measures]
        self._layout = " ".join(f"{measure.kind}:{measure.name}" for measure in stream.measures).encode()
        self._keep_s = stream.keep_days * DAY_S
        self._checked = False

    def write(self, rows: Sequence[Row]) -> None:
        """See `Store`."""
        with self._faults():
            self._check()
            known = self._watermark()
            with self._client.pipeline(transaction=True) as pipe:
                for row in rows:
                    if row.early and known is not None and row.start + row.minutes <= known:
                        continue
                    key = self._key(row.group, row.key, str(row.minutes))
                    pipe.zremrangebyscore(key, row.start, row.start)
                    if row.totals[0]:
                        pipe.zadd(key, {_encode([row.start, *row.totals]): row.start})
                    if known is not None:
                        pipe.zremrangebyscore(key, "-inf", known - self._stream.keep_days * MINUTES_A_DAY - row.minutes)
                    pipe.expire(key, self._keep_s)
                pipe.execute()

    def advance(self, minute: int) -> None:
        """See `Store`."""
        with self._faults():
            self._check()
            self._client.zadd(self._key("watermark"), {"minute": minute}, gt=True)
            self._client.expire(self._key("watermark"), self._keep_s)

    def watermark(self) -> int | None:
        """See `Store`."""
        with self._faults():
            return self._watermark()

    def read(self, spans: Sequence[Span]) -> list[tuple[Any, ...]]:
        """See `Store`."""
        with self._faults(), self._client.pipeline(transaction=True) as pipe:
            for span in spans:
                pipe.zrangebyscore(self._key(span.group, span.key, "1"), span.start, f"({span.end}")
            return [self._add(map(_decode, members)) for members in pipe.execute()]

    def newest(self, span: Span) -> Row | None:
        """See `Store`."""
        with self._faults():
            key = self._key(span.group, span.key, "1")
            members = self._client.zrevrangebyscore(key, f"({span.end}", span.start, start=0, num=1)
        return self._row(span.group, span.key, 1, members[0]) if members else None

    def windows(self, group: str, key: str, minutes: int, start: int, end: int) -> list[Row]:
        """See `Store`."""
        with self._faults():
            members = self._client.zrangebyscore(self._key(group, key, str(minutes)), start, f"({end}")
        return [self._row(group, key, minutes, member) for member in members]

    def close(self) -> None:
        """See `Store`."""
        self._client.close()

    def _key(self, *parts: str) -> str:
        return ":".join((f"airtight:{{{self._stream.name}}}", *parts))

    def _watermark(self) -> int | None:
        value = self._client.zscore(self._key("watermark"), "minute")
        return None if value is None else int(value)

    def _add(self, entries: Iterator[list[Any]]) -> tuple[Any, ...]:
        count, totals, maxima = 0, [0] * len(self._kinds), defaultdict[int, list[Any]](list)
        for _, number, *values in entries:
            count += number
            for place, value in enumerate(values):
                if self._kinds[place] != "max":
                    totals[place] += value
                elif value is not None:
                    maxima[place].append(value)
        return count, *(
            max(maxima[place], default=None) if kind == "max" else totals[place]
            for place, kind in enumerate(self._kinds)
        )

    def _row(self, group: str, key: str, minutes: int, member: bytes) -> Row:
        start, *totals = _decode(member)
        return Row(group, key, start, minutes, tuple(totals))

    def _check(self) -> None:
        """Refuses a server that forgets by itself, and totals of other measures."""
        if self._checked:
            return
        with contextlib.suppress(self._redis.ResponseError):  # A server may not say.
            policy = self._client.config_get("maxmemory-policy").get("maxmemory-policy", "noeviction")
            if policy != "noeviction":
                raise TerminalError(
                    f"The Redis of the stream {self._stream.name} would forget totals when its memory is full.",
                    expected="maxmemory-policy noeviction",
                    received=policy,
                    remedy="Set it so, or name another server.",
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
