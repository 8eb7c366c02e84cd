"""Whatever a node raises is told in one of the two families, in words."""

import errno
import sqlite3

import pytest
from ml_metadata import errors as mlmd_errors

from airtight.errors import TerminalError, TransientError
from runtime import faults


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
    told = faults.in_words(wrapped(mlmd_errors.AbortedError("Concurrent writes aborted.")), "train")
    assert told.transient
    assert told.message == "The metadata store did not answer as it should."
    assert told.received == "AbortedError: Concurrent writes aborted"


def test_what_a_component_says_in_words_is_kept_and_gets_its_step():
    fault = faults.in_words(wrapped(TerminalError("No rows.", remedy="Choose another month.")), "ingest")
    assert type(fault) is TerminalError
    assert str(fault) == "ingest: No rows. What to do: Choose another month."


@pytest.mark.parametrize(("error", "family"), [(TypeError("no"), TerminalError), (ValueError("no"), TransientError)])
def test_an_unknown_exception_is_terminal_only_when_its_type_says_so(error, family):
    assert type(faults.in_words(error, "train")) is family
