"""The store in Redis: what is its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airtight.errors import TerminalError, TransientError
from streaming.windows.declaration import Measure
from streaming.windows.redis_store import RedisStore
from tests.streaming.redis_server import redis_server  # noqa: F401
from tests.streaming.windows.shops import STREAM


@pytest.fixture
def client(redis_server: str) -> Any:  # noqa: F811
    import redis

    client = redis.Redis.from_url(redis_server)
    client.flushall()
    yield client
    client.config_set("maxmemory-policy", "noeviction")


def test_a_server_that_forgets_by_itself_is_refused(client: Any, redis_server: str) -> None:  # noqa: F811
    client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(TerminalError, match=r"would forget.*allkeys-lru"):
        RedisStore(redis_server, STREAM).write([])


def test_a_server_of_which_that_is_not_known_is_refused(client: Any, redis_server: str, monkeypatch) -> None:  # noqa: F811
    store = RedisStore(redis_server, STREAM)
    monkeypatch.setattr(store._client, "info", lambda section: {})
    with pytest.raises(TerminalError, match=r"would forget.*not known"):
        store.write([])


def test_a_server_that_lost_all_is_another_store(client: Any, redis_server: str) -> None:  # noqa: F811
    store = RedisStore(redis_server, STREAM)
    before = store.birth()
    client.flushall()
    assert store.birth().token != before.token
    with pytest.raises(TerminalError, match="other measures"):
        RedisStore(redis_server, replace(STREAM, measures=(Measure("a"),))).write([])


def test_other_measures_are_refused(client: Any, redis_server: str) -> None:  # noqa: F811
    RedisStore(redis_server, STREAM).advance(1)
    with pytest.raises(TerminalError, match="other measures"):
        RedisStore(redis_server, replace(STREAM, measures=(Measure("a"),))).advance(2)


def test_a_server_that_is_away_is_a_transient_fault() -> None:
    with pytest.raises(TransientError, match="cannot be used now"):
        RedisStore("redis://127.0.0.1:1", STREAM).watermark()
