"""The online store in Redis: what is its own. What it shares with SQLite's is in `test_store.py`."""

from __future__ import annotations

import sys

import pytest

from airtight.errors import TerminalError, TransientError
from streaming.store import opened, window
from tests.streaming import fake_redis
from tests.streaming.test_store import START, TABLES, put, totals


def test_redis_tries_again_when_another_writer_came_between(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", fake_redis)
    first, second = (opened("redis://fake/between", TABLES) for _ in range(2))
    rivals = [lambda: put(second, 9, totals("g", ("k", 1, 9, 0, 9, 9)))]
    first._client.before_execute = lambda: [rivals.pop()() for _ in rivals[:]]
    assert not put(first, 3, totals("g", ("k", 1, 3, 0, 3, 3)))
    assert window(first, "g", "k", START, START + 60) == (9, 0, 9)


def test_redis_that_is_always_taken_is_a_transient_fault(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", fake_redis)
    store = opened("redis://fake/taken", TABLES)
    store._client.before_execute = lambda: store._client._server.changed(store._key("told"))
    with pytest.raises(TransientError, match="another writer"):
        put(store, 1)


def test_a_redis_that_is_laid_out_in_another_way_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", fake_redis)
    store = opened("redis://fake/layout", TABLES)
    put(store, 1, totals("g", ("k", 1, 1, 0, 1, 1)))
    store._client.hset("airtight:told", "layout", "totals by themselves")
    for use in (store.freshest, lambda: put(store, 2)):
        with pytest.raises(TerminalError, match="laid out in another way"):
            use()


def test_without_redis_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(TerminalError, match="package redis"):
        opened("redis://127.0.0.1:1", TABLES)


def test_what_is_written_again_and_left_alone_lives_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", fake_redis)
    store = opened("redis://fake/again", TABLES)
    put(store, 1, totals("g", ("k", 1, 1, 0, 1, 1)))
    key, prolonged, written = store._key("totals", "g", "k"), [], []
    monkeypatch.setattr(fake_redis.Server, "expire", lambda _, name, seconds: prolonged.append(name))
    monkeypatch.setattr(fake_redis.Server, "zadd", lambda _, name, scored: written.append(name))
    put(store, 1, totals("g", ("k", 1, 1, 0, 1, 1)))
    assert prolonged == [key] and written == []
