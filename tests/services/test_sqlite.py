from __future__ import annotations

import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import DateTime, Engine, create_engine, func, literal, select, text

from services.sqlite import sessions


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    made = create_engine(f"sqlite:///{tmp_path / 'some.db'}", connect_args={"timeout": 5.0})
    with made.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("CREATE TABLE runs (name TEXT)")
        connection.exec_driver_sql("INSERT INTO runs VALUES ('first'), ('second')")
    return made


def other(engine: Engine) -> sqlite3.Connection:
    """Another process's connection, which does not wait."""
    return sqlite3.connect(str(engine.url.database), timeout=0, isolation_level=None)


def names(engine: Engine) -> list[str]:
    return [name for (name,) in other(engine).execute("SELECT name FROM runs")]


def test_nobody_comes_between_the_reading_and_the_writing_of_a_savepoint(engine: Engine) -> None:
    with sessions(engine)() as session:
        with session.begin_nested():
            read = session.execute(text("SELECT name FROM runs"))  # Airflow leaves it unread.
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other(engine).execute("INSERT INTO runs VALUES ('other')")
            session.execute(text("INSERT INTO runs VALUES ('third')"))
        read.close()
        session.commit()
    assert names(engine) == ["first", "second", "third"]


def test_savepoints_are_of_one_transaction(engine: Engine) -> None:
    with sessions(engine)() as session:
        for name in ("third", "fourth"):
            with session.begin_nested():
                session.execute(text("INSERT INTO runs VALUES (:name)"), {"name": name})
            assert names(engine) == ["first", "second"], "nobody sees it before the commit"
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            session.execute(text("INSERT INTO runs VALUES ('fifth')"))
            raise ZeroDivisionError
        session.commit()
    assert names(engine) == ["first", "second", "third", "fourth"]


def test_what_is_taken_back_leaves_nothing(engine: Engine) -> None:
    with sessions(engine)() as session:
        with session.begin_nested():
            session.execute(text("INSERT INTO runs VALUES ('third')"))
        session.rollback()
    assert names(engine) == ["first", "second"]
    other(engine).execute("INSERT INTO runs VALUES ('other')")


def test_what_was_due_a_moment_ago_is_due(engine: Engine) -> None:
    with sessions(engine)() as session:
        # Of whole seconds, it is not until the next one begins.
        while datetime.now(UTC).microsecond > 900_000:
            time.sleep(0.01)
        moment = datetime.now(UTC).replace(tzinfo=None)
        time.sleep(0.002)
        assert session.scalar(select(literal(moment, DateTime()) <= func.now()))
        later = datetime.now(UTC).replace(tzinfo=None, year=9999)
        assert not session.scalar(select(literal(later, DateTime()) <= func.now()))
