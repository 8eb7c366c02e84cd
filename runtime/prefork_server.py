"""The warm launcher: a process that has imported TFX and TensorFlow and forks a child for each request.

Importing them takes 14 s, forking 20 ms. Only third-party libraries are imported here, and no TensorFlow operation
runs, so that a child may start its own threads and sees the checkout's code as it is then.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from airtight.errors import AirtightError
from airtight.home import Home
from runtime import logs, worker
from runtime.protocol import encode_exit, socket_address

log = logging.getLogger(__name__)

LIBRARIES = (
    "tensorflow",
    "keras",
    "tfx.v1",
    "tfx.orchestration.portable.launcher",
    "tfx.orchestration.local.runner_utils",
    "tfx.dsl.compiler.compiler",
    # TFX's launcher starts a gRPC server for each node; gRPC loads this part at its first server only.
    "grpc._server",
    # What the steps of this project import beside TFX: 3 s that a node would otherwise pay each time.
    "great_expectations",
    "pyspark.sql.connect.session",
)
_BACKLOG = 64
_CREDENTIALS = struct.Struct("3i")


class Server:
    """Forks a child for each connection and reaps it.

    Args:
      path: Where the unix socket is made, owner only.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._children: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        # Each node has a temporary folder of its own, which goes with it however it ends: a forked process runs none
        # of the clean-up that libraries leave to the interpreter's end.
        self._temporary = Path(tempfile.gettempdir())
        # A child holds the reading end; when this process is gone, however it went, the child notices.
        self._lifeline, self._alive = os.pipe()

    def serve(self) -> None:
        """Serves until SIGTERM or SIGINT; then ends every child."""
        waker, wakes = socket.socketpair()
        wakes.setblocking(False)
        waker.setblocking(False)
        with (
            tempfile.TemporaryDirectory(prefix="airtight-nodes-", ignore_cleanup_errors=True) as temporary,
            _listening(self._path) as listener,
            waker,
            wakes,
        ):
            self._temporary = Path(temporary)
            signal.set_wakeup_fd(wakes.fileno())
            signal.signal(signal.SIGCHLD, lambda *_: None)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
            self._selector.register(listener, selectors.EVENT_READ)
            self._selector.register(waker, selectors.EVENT_READ)
            self._reap_orphans(listener)
            log.info("The launcher is ready on %s.", self._path)
            while not self._stopping:
                for key, _ in self._selector.select():
                    if key.fileobj is listener:
                        self._accept(listener)
                    else:
                        with contextlib.suppress(BlockingIOError):
                            waker.recv(4096)
                self._reap(listener)
            self._end_children()
            signal.set_wakeup_fd(-1)
        self._path.unlink(missing_ok=True)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            # Too many open files, say: the one who asks meets its own time-out, the nodes that run go on.
            log.error("A connection could not be taken: %s.", error)
            return
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, _ = _CREDENTIALS.unpack(credentials)
        if user != os.getuid():
            log.warning("Refused a connection of user %d; only user %d may ask.", user, os.getuid())
            connection.close()
            return
        try:
            pid = os.fork()
        except OSError as error:
            log.error("A node's process could not be started: %s.", error)
            connection.close()
            return
        if pid == 0:
            self._be_child(listener, connection)
        self._children[pid] = connection

    def _be_child(self, listener: socket.socket, connection: socket.socket) -> None:
        """Does the one request; never returns."""
        status = 1
        try:
            self._leave(listener)
            self._move_in()
            worker.answer(connection, self._lifeline)
            status = 0
        except BaseException:  # noqa: BLE001 - a forked child must never run on into the server's loop
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _leave(self, listener: socket.socket) -> None:
        """Lets go, in a child, of all that is the server's: what a child held open would outlive the server."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        os.close(self._alive)
        for other in self._children.values():
            other.close()

    def _move_in(self) -> None:
        folder = self._temporary / str(os.getpid())
        # It may be there, of a process of this number that wrote until the end; or a cleaner of old files took all.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)

    def _reap(self, listener: socket.socket) -> None:
        for pid, connection in list(self._children.items()):
            if not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                continue
            # What the node started ends with it. The group is killed before the pid is reaped: no one can reuse it yet.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            shutil.rmtree(self._temporary / str(pid), ignore_errors=True)
            _, status = os.waitpid(pid, 0)
            del self._children[pid]
            with connection, contextlib.suppress(OSError):
                connection.setblocking(False)
                connection.sendall(encode_exit(status))
            if status != 0:
                log.warning("The node's process %d ended with status %d.", pid, status)
                self._reap_orphans(listener)

    def _reap_orphans(self, listener: socket.socket) -> None:
        """Ends, in a child, the executions that dead processes left open."""
        try:
            pid = os.fork()
        except OSError as error:
            log.error("No process could be started to look for dead attempts: %s.", error)
            return
        if pid == 0:
            self._be_reaper(listener)
        # Not waited for here: the next SIGCHLD finds it among the children.
        self._children[pid] = socket.socket(socket.AF_UNIX)

    def _be_reaper(self, listener: socket.socket) -> None:
        try:
            self._leave(listener)
            from runtime import attempts, metadata_store

            with metadata_store.project_connection(Home.current()) as handle:
                attempts.reap_orphans(handle.store)
        except AirtightError as error:
            # The next attempt of each node looks for itself, and so does the next child.
            log.warning("No dead attempts were looked for. %s", error)
        except BaseException:  # noqa: BLE001 - a forked child must never run on into the server's loop
            traceback.print_exc()
        finally:
            os._exit(0)

    def _end_children(self) -> None:
        os.close(self._alive)
        for pid in list(self._children):
            # A node ends when the lifeline closes; what it started is killed before its number is free again.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def serve(path: Path) -> None:
    """Imports the libraries and serves on a unix socket until SIGTERM.

    Args:
      path: The socket, for its owner only; a folder that is made for it, and the state folder's, is its owner's, too.
    """
    logs.speak()
    for name in LIBRARIES:
        importlib.import_module(name)
    logs.speak()
    # What is there now is shared with every child; the collector must not touch, and so copy, it.
    gc.collect()
    gc.freeze()
    Server(path).serve()


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    if not path.parent.exists():
        path.parent.mkdir(parents=True, mode=0o700)
    elif path.parent == Home.current().run:
        path.parent.chmod(0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            with socket_address(path) as address:
                probe.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            path.unlink(missing_ok=True)
        else:
            raise SystemExit(f"A launcher serves on {path} already.")
    before = os.umask(0o177)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            with socket_address(path) as address:
                listener.bind(address)
            os.umask(before)
            listener.listen(_BACKLOG)
            yield listener
    finally:
        os.umask(before)
