"""The process that does one request: a child of the warm launcher, or a cold process of its own.

Both speak over one socket: the request comes in, the outcome goes out, and when the other side closes, the work ends.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from airtight.errors import AirtightError, TransientError
from airtight.home import Home
from runtime import logs
from runtime.compile_inputs import OF_THE_PROCESS
from runtime.protocol import (
    OF_OTHERS,
    CompileRequest,
    Outcome,
    Request,
    decode_request,
    encode_outcome,
    receive_with_output,
    socket_address,
)

log = logging.getLogger(__name__)

GRACE_S = 4.0
"""Seconds that a node has for cleaning up after it was told to stop."""
_REQUEST_TIMEOUT_S = 10.0


def answer(connection: socket.socket, *lifelines: int) -> None:
    """Reads one request, does it, sends the outcome.

    The process must lead its own process group: when the client or a lifeline goes away, the whole group is ended.

    Args:
      connection: The socket to the client.
      *lifelines: Further file descriptors whose other side must stay open.
    """
    connection.settimeout(_REQUEST_TIMEOUT_S)
    frame, output = receive_with_output(connection)
    connection.settimeout(None)
    if frame is None:
        return
    if output is not None:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
    for name in [name for name in os.environ if name.startswith(OF_OTHERS)]:
        del os.environ[name]
    logs.speak()
    signal.signal(signal.SIGTERM, _cancel)
    threading.Thread(target=_end_with, args=(connection.fileno(), *lifelines), daemon=True).start()
    outcome = do(decode_request(frame))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        connection.sendall(encode_outcome(outcome))
    except (BrokenPipeError, ConnectionResetError):
        return
    if output is not None:
        # The client reads to the end of the output, and this process's own end takes 20 ms: its memory goes first.
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)


def first_connection(path: Path) -> socket.socket:
    """Makes a unix socket for the owner alone and waits for whoever connects first.

    Raises:
      TimeoutError: Nobody does.
    """
    # The whole group is ended with the request, and whoever started this process must not be in it.
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    before = os.umask(0o177)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            with socket_address(path) as address:
                listener.bind(address)
            listener.listen(1)
            listener.settimeout(_REQUEST_TIMEOUT_S)
            connection, _ = listener.accept()
    finally:
        os.umask(before)
    return connection


def do(request: Request) -> Outcome:
    """Does one request in this process.

    Everything of the checkout is imported here and not before, so that the next node sees changed code.
    """
    from runtime import faults

    step = "compile" if isinstance(request, CompileRequest) else request.node
    try:
        if isinstance(request, CompileRequest):
            from runtime.compile import compile_pipeline

            if request.others:
                return _compile_apart(request)
            home = Home(Path(request.home))
            with _environment_of(request):
                path = compile_pipeline(request.pipeline, home, arguments=request.arguments, only_if_stale=True)
            return Outcome("complete", f"Compiled {request.pipeline} to {path}.")
        from runtime.launch import launch

        os.environ["AIRTIGHT_HOME"] = request.home
        return launch(request)
    except Exception as error:  # noqa: BLE001 - the outcome carries every fault across the process boundary
        if not isinstance(error, (AirtightError, faults.Cancelled)):
            traceback.print_exc()
        return Outcome.failure(faults.in_words(error, step))


def _compile_apart(request: CompileRequest) -> Outcome:
    """Compiles several pipelines, each in a child: what one imports would be taken for a part of the next.

    Returns:
      The outcome of the first that does not compile, or that of the last.
    """
    context = multiprocessing.get_context("fork")
    children = []
    for pipeline, arguments in ((request.pipeline, request.arguments), *request.others):
        ours, theirs = context.Pipe(duplex=False)
        alone = replace(request, pipeline=pipeline, arguments=arguments, others=())
        child = context.Process(target=_compile_in_child, args=(alone, theirs))
        child.start()
        theirs.close()
        children.append((pipeline, child, ours))
    outcomes = []
    for pipeline, child, ours in children:
        try:
            outcome = ours.recv()
        except EOFError:
            outcome = None
        child.join()
        outcomes.append(outcome or Outcome.failure(_died(pipeline, child.exitcode)))
    return next((outcome for outcome in outcomes if outcome.state == "failed"), outcomes[-1])


def _compile_in_child(request: CompileRequest, outcome: Connection) -> None:
    outcome.send(do(request))


def _died(pipeline: str, status: int | None) -> TransientError:
    return TransientError(
        f"The process that compiles the pipeline {pipeline} ended without an outcome.",
        expected="an outcome",
        received=f"exit status {status}" + (" (is memory short?)" if status == -signal.SIGKILL else ""),
        remedy="Look at the lines above; the pipeline is compiled again when it is needed next.",
    )


@contextlib.contextmanager
def _environment_of(request: CompileRequest) -> Iterator[None]:
    """Compiles as the client would: with its environment, but for this process's own folders, and on its path."""
    before = dict(os.environ)
    own = {name: before[name] for name in OF_THE_PROCESS if name in before} | {"AIRTIGHT_HOME": request.home}
    sys.path.extend(path for path in request.paths if path not in sys.path)
    try:
        if request.environment is not None:
            os.environ.clear()
            os.environ.update(request.environment | own)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def reap_orphans() -> None:
    """Ends the executions that dead processes left open; a metadata store that is away is no fault."""
    from runtime import attempts, metadata_store

    try:
        with metadata_store.project_connection(Home.current()) as handle:
            attempts.reap_orphans(handle.store)
    except AirtightError as error:
        # The next attempt of each node looks for itself, and so does the next child.
        log.warning("No dead attempts were looked for. %s", error)


def _cancel(_number: int, _frame: FrameType | None) -> None:
    from runtime.faults import Cancelled

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Cancelled("a signal to stop")


def _end_with(*descriptors: int) -> None:
    """Waits until the other side of one descriptor closes; then ends this process and all its children."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    poll.poll()
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)
