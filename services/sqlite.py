"""How Airflow uses SQLite here: it waits for another writer instead of giving up, and its clock has fractions.

Airflow imports this module by itself.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.sql.functions import now

from services.environment import WRITER_PATIENCE_S

CONNECT = {"timeout": float(WRITER_PATIENCE_S)}
"""How the driver connects. After SQLite's own 5 s a scheduler in the middle of a backfill would give up and end."""


def sessions(engine: Engine) -> sessionmaker[Session]:
    """Airflow's sessions, with savepoints that take the right to write at once.

    Python's driver begins a transaction at the first write, but not at a savepoint, which SQLite then takes for the
    beginning of a transaction that only reads. When another process writes between such a reading and the first
    write, SQLite has no way on and says "database is locked" at once, however long one is willing to wait
    (https://www.sqlite.org/rescode.html#busy_snapshot). Airflow makes the runs of a backfill in savepoints: now and
    then one was refused, stayed behind without an end, and the scheduler ended over runs that were taken back.

    Args:
      engine: Of the database's synchronous connections.
    """

    @event.listens_for(engine, "savepoint")
    def begin(connection: Connection, _name: str) -> None:
        driver = connection.connection.driver_connection
        if driver is not None and not driver.in_transaction:
            driver.execute("BEGIN IMMEDIATE")

    # As Airflow makes them itself.
    return sessionmaker(engine, autocommit=False, autoflush=False, expire_on_commit=False)


@compiles(now, "sqlite")
def _now(*_: Any, **__: Any) -> str:
    """The present instant to the millisecond, in the form in which SQLAlchemy writes instants.

    SQLite's CURRENT_TIMESTAMP ends at the second. Airflow starts a run when `run_after <= now()`: of whole seconds,
    that is up to a second after the run was triggered.
    """
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
