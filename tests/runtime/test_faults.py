"""Whatever a node raises is told in one of the two families, in words."""

import errno
import os
import sqlite3

import ml_metadata as mlmd
import psycopg
import pytest
from ml_metadata import errors as mlmd_errors
from ml_metadata.proto import metadata_store_pb2

from airtight.errors import TerminalError, TransientError
from runtime import faults, metadata_connection
from tests.tiny_pipeline.running import Run, fault


def wrapped(cause: BaseException) -> Exception:
    """As TFX's launcher wraps what a component raises."""
    outer = RuntimeError("the executor failed")
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    "cause",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        sqlite3.OperationalError("database or disk is full"),
        RuntimeError("java.io.IOException: No space left on device"),
    ],
)
def test_a_full_disk_is_told_as_one_and_may_be_tried_again(cause):
    fault = faults.in_words(wrapped(cause), "train")
    assert isinstance(fault, TransientError)
    assert str(fault).startswith("train: There is no room left for train.")
    assert "Free some space" in str(fault)


def test_a_metadata_store_that_fails_inside_of_tfx_is_told_as_one():
    known = faults.in_words(wrapped(mlmd_errors.AbortedError("Concurrent writes aborted.")), "train")
    assert known.transient
    assert known.message == "The metadata store did not answer as it should."
    assert known.received == "AbortedError: Concurrent writes aborted"


UNRESOLVABLE = "tests.tiny_pipeline.unresolvable:create_pipeline"


@pytest.mark.parametrize(
    ("node", "transient", "words"),
    [
        ("resolve_terminal", False, "The champion is gone."),
        ("resolve_transient", True, "The champion is gone."),
        ("resolve_type", False, "TypeError: The champion is gone"),
        ("drive", False, "The driver has no room for doubt."),
        ("use", False, "Failed to resolve dynamic exec property. Key: text."),
    ],
)
def test_what_ends_a_node_before_its_code_keeps_its_family_and_its_words(home, node, transient, words):
    run = Run(home, UNRESOLVABLE)
    run.values = {}
    run.node("make")
    failure = fault(run.node(node))
    assert failure["transient"] is transient
    assert words in f"{failure['message']} {failure['received']}"
    assert "Traceback" not in str(failure)


def test_a_property_that_cannot_be_resolved_is_told_with_its_cause(home):
    run = Run(home, UNRESOLVABLE)
    run.values = {}
    run.node("make")
    assert "no_such" in fault(run.node("use"))["received"]


REFUSALS = {
    "may not write": ("REVOKE INSERT ON context FROM guest", "permission denied"),
    "lost a table": ("DROP TABLE contextproperty", 'relation "contextproperty" does not exist'),
    "has narrow columns": ("ALTER TABLE context ALTER COLUMN name TYPE VARCHAR(255)", "value too long"),
    "has narrow indexes": (
        "CREATE INDEX idx_context_property_string ON contextproperty (name, is_custom_property, string_value)",
        "index row",
    ),
}


@pytest.mark.parametrize("home", ["postgresql"], indirect=True)
@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_store_will_always_refuse_is_terminal(home, monkeypatch, case):
    statement, words = REFUSALS[case]
    metadata_connection.project_store(home)
    address = os.environ["AIRTIGHT_METADATA"]
    with psycopg.connect(address) as owner:
        owner.execute("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 'guest'")
        owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO guest")
        owner.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO guest")
    try:
        kind = metadata_connection.project_store(home).put_context_type(metadata_store_pb2.ContextType(name="texts"))
        config = metadata_connection.project_config(home)
        config.postgresql.user = config.postgresql.password = "guest"
        guest = mlmd.MetadataStore(config)
        with psycopg.connect(address) as owner:
            owner.execute(statement)
        context = metadata_store_pb2.Context(type_id=kind, name=f"syntax error {'n' * 300}")
        context.custom_properties["text"].string_value = os.urandom(5_000).hex()
        with pytest.raises(mlmd_errors.StatusError) as caught:
            guest.put_contexts([context])
    finally:
        with psycopg.connect(address) as owner:
            owner.execute("DROP OWNED BY guest; DROP ROLE guest")
    known = faults.in_words(wrapped(caught.value), "train")
    assert type(known) is TerminalError
    assert words in known.received
    assert len(known.received) < 1_000


@pytest.mark.parametrize(
    "error",
    [
        mlmd_errors.AbortedError("Concurrent writes aborted."),
        mlmd_errors.UnavailableError("the server closed the connection"),
        mlmd_errors.InternalError("ERROR: deadlock detected"),
        mlmd_errors.InternalError("ERROR: could not serialize access due to concurrent update"),
        mlmd_errors.InternalError("PostgreSQL metadata source error: server closed the connection unexpectedly"),
        # After a failover, until the standby is promoted or the address leads to the new primary.
        mlmd_errors.InternalError(
            "PostgreSQL metadata source error: ERROR: cannot execute INSERT in a read-only transaction"
        ),
        mlmd_errors.InternalError("Cannot create node 'syntax error'PostgreSQL metadata source error: ERROR: deadlock"),
        mlmd_errors.InternalError("Error when executing query: database is locked query: SELECT 'syntax error'"),
    ],
)
def test_what_the_store_may_take_the_next_time_is_transient(error):
    assert type(faults.in_words(wrapped(error), "train")) is TransientError


def test_a_store_on_sqlite_that_refuses_for_ever_is_terminal(home):
    store = metadata_connection.project_store(home)
    kind = store.put_context_type(metadata_store_pb2.ContextType(name="texts"))
    with sqlite3.connect(home.metadata_db) as database:
        database.execute("DROP TABLE ContextProperty")
    context = metadata_store_pb2.Context(type_id=kind, name="name")
    context.custom_properties["text"].string_value = "text"
    with pytest.raises(mlmd_errors.StatusError) as caught:
        store.put_contexts([context])
    assert type(faults.in_words(caught.value, "train")) is TerminalError


def test_a_database_file_that_may_only_be_read_is_terminal():
    error = mlmd_errors.InternalError("Error when executing query: attempt to write a readonly database query: INSERT")
    assert type(faults.in_words(error, "train")) is TerminalError


def test_what_a_component_says_in_words_is_kept_and_gets_its_step():
    fault = faults.in_words(wrapped(TerminalError("No rows.", remedy="Choose another month.")), "ingest")
    assert type(fault) is TerminalError
    assert str(fault) == "ingest: No rows. What to do: Choose another month."


@pytest.mark.parametrize(("error", "family"), [(TypeError("no"), TerminalError), (ValueError("no"), TransientError)])
def test_an_unknown_exception_is_terminal_only_when_its_type_says_so(error, family):
    assert type(faults.in_words(error, "train")) is family
