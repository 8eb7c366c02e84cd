"""The few commands of Redis that the store uses, in memory: a stand-in for the module `redis`."""

from __future__ import annotations

from typing import Any, ClassVar


class RedisError(Exception):
    pass


class WatchError(RedisError):
    pass


class Server:
    """What all clients of an address share."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, Any]] = {}
        self.changes: dict[str, int] = {}

    def changed(self, key: str) -> dict[str, Any]:
        self.changes[key] = self.changes.get(key, 0) + 1
        return self.keys.setdefault(key, {})

    def get(self, key):
        return self.keys.get(key, {}).get("")

    def set(self, key, value, ex):
        assert ex > 0
        self.changed(key)[""] = value

    def hget(self, key, field):
        return self.keys.get(key, {}).get(field)

    def hgetall(self, key):
        return dict(self.keys.get(key, {}))

    def hmget(self, key, fields):
        return [self.hget(key, str(field)) for field in fields]

    def mget(self, keys):
        return [self.get(key) for key in keys]

    def hset(self, key, field=None, value=None, mapping=None):
        self.changed(key).update({name: str(told) for name, told in (mapping or {field: value}).items()})

    def zadd(self, key, scored):
        self.changed(key).update(scored)

    def zrem(self, key, member):
        self.changed(key).pop(member, None)

    def zrangebyscore(self, key, low, high, start=0, num=None):
        low, high = _bound(low), _bound(high)
        found = [(score, member) for member, score in self.keys.get(key, {}).items()]
        found = [m for s, m in sorted(found) if _over(s, low) and not _over(s, high, at_once=True)]
        return found[start:] if num is None else found[start : start + num]

    def zcount(self, key, low, high):
        return len(self.zrangebyscore(key, low, high))

    def zrevrangebyscore(self, key, high, low, start, num):
        return self.zrangebyscore(key, low, high)[::-1][start : start + num]

    def zremrangebyscore(self, key, low, high):
        for member in self.zrangebyscore(key, low, high):
            self.changed(key).pop(member)

    def expire(self, key, seconds):
        assert seconds > 0


def _bound(told: Any) -> tuple[float, bool]:
    """The number, and whether it is excluded."""
    return (float(told[1:]), True) if str(told).startswith("(") else (float(told), False)


def _over(score: float, bound: tuple[float, bool], at_once: bool = False) -> bool:
    number, excluded = bound
    if at_once:
        return score >= number if excluded else score > number
    return score > number if excluded else score >= number


class Pipeline:
    """Commands at once after `watch`, and together after `multi`."""

    def __init__(self, server: Server, before_execute: Any) -> None:
        self._server, self._before_execute = server, before_execute
        self._watched: dict[str, int | None] | None = None
        self._queued: list[tuple[Any, tuple, dict]] = []

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        pass

    def watch(self, *keys):
        self._watched = {key: self._server.changes.get(key) for key in keys}
        self._at_once = True

    def multi(self):
        self._at_once = False

    def __getattr__(self, name):
        command = getattr(self._server, name)

        def called(*args, **kwargs):
            if self.__dict__.get("_at_once"):
                return command(*args, **kwargs)
            self._queued.append((command, args, kwargs))
            return self

        return called

    def execute(self):
        if self._watched is not None:
            self._before_execute()
            if any(self._server.changes.get(key) != change for key, change in self._watched.items()):
                raise WatchError
        return [command(*args, **kwargs) for command, args, kwargs in self._queued]


class Redis:
    """A client; `before_execute` is called before each transaction that watches ends."""

    servers: ClassVar[dict[str, Server]] = {}

    def __init__(self, server: Server) -> None:
        self._server = server
        self.before_execute = lambda: None

    @classmethod
    def from_url(cls, url, **unused):
        return cls(cls.servers.setdefault(url, Server()))

    def pipeline(self, transaction=True):
        return Pipeline(self._server, self.before_execute)

    def close(self):
        pass

    def __getattr__(self, name):
        return getattr(self._server, name)
