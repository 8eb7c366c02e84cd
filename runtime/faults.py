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
_RAISED = re.compile(r"^[\w.]*(?:Error|Exception): .+$", re.MULTILINE)
_SEVERAL = "Handling more than one input dicts"
_RESULT = "__execution_result__"


class Cancelled(Exception):
    """Somebody wants this node to end; an Exception, so that TFX's launcher cleans up and publishes the failure."""


def in_words(error: BaseException, step: str) -> AirtightError:
    """Gives any exception the form that crosses processes.

    Args:
      error: What was raised.
      step: The node.
    """
    known = next((cause for cause in _chain(error) if isinstance(cause, AirtightError)), None)
    # Spark, TensorFlow and SQLite say it each in their own exception.
    full = next((cause for cause in _chain(error) if is_full_disk(cause)), None)
    if known is None and full is not None:
        known = full_disk(f"for {step}", full)
    if known:
        known.step = known.step or step
        return known
    if isinstance(error, Cancelled):
        return TransientError(
            "The node was stopped before it ended.",
            expected="time to end by itself",
            received=str(error),
            remedy="Clear the task to run it again; nothing of it was kept.",
            step=step,
        )
    store = next((cause for cause in _chain(error) if isinstance(cause, mlmd_errors.StatusError)), None)
    if store:
        return TransientError(
            "The metadata store did not answer as it should.",
            expected="a store that can be reached and written",
            received=f"{type(store).__name__}: {store}",
            remedy="See whether the store runs; the task is tried again.",
            step=step,
        )
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


def swallowed(execution: metadata_store_pb2.Execution, step: str) -> AirtightError:
    """The fault that TFX's launcher wrote into the execution and did not raise."""
    result = execution_result_pb2.ExecutionResult()
    told = execution.custom_properties.get(_RESULT)
    if told is not None:
        json_format.Parse(told.string_value, result)
    if result.result_message.startswith(_SEVERAL):
        return TerminalError(
            f"{step} would run once for each element of a list (ForEach), and the list has several.",
            expected="a list of one element, or of none",
            received=f"TFX's launcher: {result.result_message}",
            remedy="Write the step as one component that takes the whole list, or as a pipeline with a run for each.",
            step=step,
        )
    # Of a chain of exceptions, Python prints the first cause first.
    causes = _RAISED.findall(result.result_message) or result.result_message.splitlines()
    family = TerminalError if result.code in _WILL_NOT_HEAL_CODES else TransientError
    state = metadata_store_pb2.Execution.State.Name(execution.last_known_state)
    return family(
        "TFX ended the node before its code ran.",
        expected="inputs and parameters that can be resolved",
        received=causes[0] if causes else f"an execution that is {state}",
        remedy="See the messages above: an upstream node may have been marked as done without running.",
        step=step,
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes: TFX wraps what components and resolvers raise, and the cause says more."""
    while error is not None:
        yield error
        error = error.__cause__
