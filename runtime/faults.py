"""What a node raised, in one of the two families."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator

import grpc
from google.protobuf import json_format
from ml_metadata import errors as mlmd_errors
from ml_metadata.proto import metadata_store_pb2
from tfx.proto.orchestration import execution_result_pb2

from airtight.errors import AirtightError, TerminalError, TransientError
from airtight.files import full_disk, is_full_disk

_WILL_NOT_HEAL = (TypeError, AttributeError, NameError, ImportError, SyntaxError, NotImplementedError)
_WILL_NOT_HEAL_CODES = {
    code.value[0]
    for code in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INVALID_ARGUMENT)
}
_SEVERAL = "Handling more than one input dicts"
_RESULT = "__execution_result__"
_TERMINAL_STATUS = (
    mlmd_errors.InvalidArgumentError,
    mlmd_errors.FailedPreconditionError,
    mlmd_errors.OutOfRangeError,
    mlmd_errors.PermissionDeniedError,
    mlmd_errors.UnauthenticatedError,
    mlmd_errors.UnimplementedError,
    mlmd_errors.DataLossError,
)
_TERMINAL_SQL = re.compile(
    # ML Metadata hands on the database's words alone, without its code: PostgreSQL's first, then SQLite's.
    r"index row (size|requires)|value too long|out of range|syntax error|invalid input syntax|invalid byte sequence"
    r"|permission denied|must be owner|(relation|column|database|role|schema) .*does not exist"
    r"|violates (not-null|check) constraint"
    r"|readonly database|no such (table|column)|string or blob too big|malformed|not a database",
    re.IGNORECASE,
)
_DATABASE_SAYS = ("PostgreSQL metadata source error: ", "Error when executing query: ")
_LONGEST = 500


class Cancelled(Exception):
    """Somebody wants this node to end; an Exception, so that TFX's launcher cleans up and publishes the failure."""


def in_words(error: BaseException, step: str) -> AirtightError:
    """Gives any exception the form that crosses processes.

    Args:
      error: What was raised.
      step: The node.
    """
    fault = _known(error, step)
    if fault:
        return fault
    family = TerminalError if isinstance(error, _WILL_NOT_HEAL) else TransientError
    where = traceback.extract_tb(error.__traceback__)
    place = f" at {where[-1].filename}, line {where[-1].lineno}" if where else ""
    return family(
        f"{type(error).__name__}: {error}",
        expected=f"{step} to end without an exception",
        received=f"an exception{place}",
        remedy="See the traceback above.",
        step=step,
    )


def swallowed(execution: metadata_store_pb2.Execution, step: str, error: BaseException | None = None) -> AirtightError:
    """Returns the fault that TFX's launcher wrote into the execution and did not raise.

    Args:
      execution: The execution that failed.
      step: The node.
      error: What the launcher caught, if that is known: it says more than the text in the execution.
    """
    fault = _known(error, step)
    if fault:
        return fault
    result = execution_result_pb2.ExecutionResult()
    value = execution.custom_properties.get(_RESULT)
    if value is not None:
        json_format.Parse(value.string_value, result)
    if result.result_message.startswith(_SEVERAL):
        return TerminalError(
            f"{step} would run once for each element of a list (ForEach), and the list has several.",
            expected="a list of one element, or of none",
            received=f"TFX's launcher: {result.result_message}",
            remedy="Write the step as one component that takes the whole list, or as a pipeline with a run for each.",
            step=step,
        )
    state = metadata_store_pb2.Execution.State.Name(execution.last_known_state)
    lines = result.result_message.strip().splitlines()
    received = _with_cause(error) if error else (lines[-1] if lines else f"an execution that is {state}")
    causes = list(_chain(error))
    terminal = result.code in _WILL_NOT_HEAL_CODES or (causes and isinstance(causes[-1], _WILL_NOT_HEAL))
    return (TerminalError if terminal else TransientError)(
        "TFX ended the node before its code ran.",
        expected="inputs and parameters that can be resolved",
        received=received,
        remedy="See the messages above: an upstream node may have been marked as done without running.",
        step=step,
    )


def _known(error: BaseException | None, step: str) -> AirtightError | None:
    """Returns the fault that an exception or one of its causes is in itself; None where none of them is known."""
    for cause in _chain(error):
        if isinstance(cause, AirtightError):
            cause.step = cause.step or step
            return cause
    for cause in _chain(error):
        # Spark, TensorFlow and SQLite say it each in their own exception.
        if is_full_disk(cause):
            fault: AirtightError = full_disk(f"for {step}", cause)
            fault.step = step
            return fault
    for cause in _chain(error):
        if isinstance(cause, Cancelled):
            return TransientError(
                "The node was stopped before it ended.",
                expected="time to end by itself",
                received=str(cause),
                remedy="Clear the task to run it again; nothing of it was kept.",
                step=step,
            )
        if isinstance(cause, mlmd_errors.StatusError):
            return _of_store(cause, step)
    return None


def _of_store(error: mlmd_errors.StatusError, step: str) -> AirtightError:
    """Returns the fault of the metadata store: terminal where the same request would be refused again."""
    # Before the database's words stands what was to be written, of any length, and after SQLite's the query.
    for start in _DATABASE_SAYS:
        _, is_there, words = str(error).rpartition(start)
        if is_there:
            words = words.partition(" query:")[0].strip()
            break
    received = f"{type(error).__name__}: {words[:_LONGEST]}"
    line = words.partition("\n")[0] if is_there else ""
    if isinstance(error, _TERMINAL_STATUS) or _TERMINAL_SQL.search(line):
        return TerminalError(
            "The metadata store refused a request.",
            expected="a store whose tables are ML Metadata's and that this user may write",
            received=received,
            remedy="Mend what the store names; the same request would be refused again.",
            step=step,
        )
    return TransientError(
        "The metadata store did not answer as it should.",
        expected="a store that can be reached and written",
        received=received,
        remedy="See whether the store runs; the task is tried again.",
        step=step,
    )


def _with_cause(error: BaseException) -> str:
    """What was raised, and its first cause, which says more."""
    first = list(_chain(error))[-1]
    text = f"{type(first).__name__}: {first}".rstrip(": ")
    return text if first is error else f"{error} ({text})"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes: TFX wraps what components and resolvers raise, and the cause says more."""
    while error is not None:
        yield error
        error = error.__cause__
