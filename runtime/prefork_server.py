"""The warm launcher: a process that has imported TFX and TensorFlow and forks a child for each request.

Importing them takes 14 s, forking 20 ms; one child is forked ahead, so a request waits for neither. No TensorFlow
operation runs, so that a child may start its own threads, and no pipeline's code is imported, so that a child sees it
as it is then. When a library is upgraded, the launcher replaces itself before it takes the next request (adr/0023);
when the project's own code changed, the child imports it anew.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import selectors
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from runtime import logs
from runtime.handover import STOPS, Handover, has_ended, reap, remove_leftovers, remove_traces, send_exit
from runtime.installed import Imported
from runtime.protocol import listen, load_file
from runtime.spare_child import SpareChild, wait_for_connection

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
    # TFX imports it whenever it makes an artifact: 70 ms of each node. The last is gRPC's, likewise.
    "setuptools",
    "grpc._utilities",
)
OWN_MODULES = ("runtime.worker", "runtime.launch", "runtime.compile")
"""The project's own code that every node needs; a child imports it anew when it has changed."""
PRELOAD = "AIRTIGHT_PRELOAD"
"""Names further modules that the launcher imports for its nodes, separated by commas; installed packages only."""
_CREDENTIALS = struct.Struct("3i")


class Server:
    """Forks a child for each connection and reaps it.

    Args:
      path: Where the unix socket is made, owner only.
      imported: What the children inherit.
      handover: What the predecessor left.
    """

    def __init__(self, path: Path, imported: Imported, handover: Handover | None = None) -> None:
        self._path = path
        self._imported = imported
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._started = time.time()
        self._ended, self._died = (handover.ended, handover.died) if handover else (0, 0)
        if handover is None:
            self._listener = listen(path)
            # A training's rows among them may be gigabytes.
            remove_leftovers(path)
            # A child holds the reading end; when this process is gone, however it went, the child notices.
            self._lifeline, self._alive = os.pipe()
            # Each node has a temporary folder of its own, which goes with it however it ends: a forked process runs
            # none of the clean-up that libraries leave to the interpreter's end.
            self._temporary = Path(tempfile.mkdtemp(prefix="airtight-nodes-"))
            self._children: dict[int, socket.socket | None] = {}
        else:
            self._listener = socket.socket(fileno=handover.listener)
            self._lifeline, self._alive = handover.lifeline, handover.alive
            self._temporary = Path(handover.temporary)
            self._children = {pid: socket.socket(fileno=fd) if fd >= 0 else None for pid, fd in handover.children}
        self._spare: SpareChild | None = None

    def serve(self) -> None:
        """Serves until SIGTERM or SIGINT; then ends every child."""
        waker, wakes = socket.socketpair()
        wakes.setblocking(False)
        waker.setblocking(False)
        with self._listener, waker, wakes:
            signal.set_wakeup_fd(wakes.fileno())
            signal.signal(signal.SIGCHLD, lambda *_: None)
            for number in STOPS:
                signal.signal(number, self._stop)
            self._selector.register(self._listener, selectors.EVENT_READ)
            self._selector.register(waker, selectors.EVENT_READ)
            self._reap_orphans()
            log.info("The launcher is ready on %s.", self._path)
            # Nodes that were handed over may have ended while nobody listened for it.
            self._reap()
            self._note_load()
            self._fork_spare()
            while not self._stopping:
                for key, _ in self._selector.select():
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        with contextlib.suppress(BlockingIOError):
                            waker.recv(4096)
                self._reap()
            self._end_children()
            signal.set_wakeup_fd(-1)
        remove_traces(self._path, self._temporary)

    def _replace(self, changes: list[str]) -> None:
        """Starts anew with what is installed now, as the same process; its nodes go on, and clients wait.

        Args:
          changes: What was upgraded, in words.
        """
        # A signal that comes from here on waits for the successor.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        if self._stopping:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
            return
        log.warning(
            "The launcher starts anew, because what it imported was replaced (%s). %d of its processes go on.",
            "; ".join(changes),
            len(self._children),
        )
        if self._spare is not None:
            # It has the old libraries, and does nothing yet.
            self._spare.dismiss(self._temporary)
            del self._children[self._spare.pid]
        children = [(pid, connection.fileno() if connection else -1) for pid, connection in self._children.items()]
        handover = Handover(
            self._listener.fileno(),
            self._lifeline,
            self._alive,
            str(self._temporary),
            children,
            self._ended,
            self._died,
        )
        try:
            handover.leave(self._path)
        except BaseException:
            remove_traces(self._path, self._temporary)
            raise

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _accept(self) -> None:
        # Before the request is taken, so that it waits for the successor.
        if changes := self._imported.changes():
            self._replace(changes)
        if self._stopping:
            return
        try:
            connection, _ = self._listener.accept()
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
        spare, self._spare = self._spare, None
        if spare is not None and spare.take(connection):
            pid = spare.pid
        else:
            try:
                pid = os.fork()
            except OSError as error:
                log.error("A node's process could not be started: %s.", error)
                connection.close()
                return
            if pid == 0:
                self._be_child(lambda: connection)
        self._children[pid] = connection
        self._note_load()
        self._fork_spare()

    def _fork_spare(self) -> None:
        """Forks the child of the next request."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            log.warning("No process could be started ahead: %s.", error)
            return
        try:
            pid = os.fork()
        except OSError as error:
            # The next request forks its own, or says why it cannot.
            log.warning("No process could be started ahead: %s.", error)
            ours.close()
            theirs.close()
            return
        if pid == 0:
            ours.close()
            self._be_child(lambda: wait_for_connection(theirs, self._lifeline))
        theirs.close()
        self._spare, self._children[pid] = SpareChild(pid, ours), None

    def _be_child(self, connected: Callable[[], socket.socket | None]) -> None:
        """Does the one request of the connection that it gets, if it gets one; never returns."""
        status = 1
        try:
            self._leave()
            connection = connected()
            if connection is None:
                os._exit(0)
            self._imported.forget_changed_code()
            self._move_in()
            from airtight import fingerprint
            from runtime import worker

            fingerprint.pin_versions(self._imported.versions)
            worker.answer(connection, self._lifeline)
            status = 0
        except BaseException:  # noqa: BLE001 - a forked child must never run on into the server's loop
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _leave(self) -> None:
        """Lets go, in a child, of all that is the server's: what a child held open would outlive the server."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._listener.close()
        os.close(self._alive)
        for other in self._children.values():
            if other is not None:
                other.close()

    def _move_in(self) -> None:
        folder = self._temporary / str(os.getpid())
        # It may be there, of a process of this number that wrote until the end; or a cleaner of old files took all.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)

    def _reap(self) -> None:
        for pid, connection in list(self._children.items()):
            if not has_ended(pid):
                continue
            status = reap(pid, self._temporary)
            del self._children[pid]
            if self._spare is not None and self._spare.pid == pid:
                self._spare.line.close()
                self._spare = None
            if connection is not None:
                self._ended += 1
                self._died += status != 0
                self._note_load()
                send_exit(connection, status)
            if status != 0:
                log.warning("The process %d ended with status %d.", pid, status)
                # Others than nodes left nothing open; a reaper that is killed must not be followed by the next at once.
                if connection is not None:
                    self._reap_orphans()

    def _note_load(self) -> None:
        """Writes beside the socket what `runtime.protocol.load_file` says."""
        running = sum(connection is not None for connection in self._children.values())
        try:
            pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
            load = {
                **{"running": running, "ended": self._ended, "died": self._died, "temporary": str(self._temporary)},
                **{"started": self._started, "memory_bytes": pages * os.sysconf("SC_PAGE_SIZE")},
            }
            # Not as files that must outlast a power cut: the disk may take seconds, and nodes wait for this loop.
            file = load_file(self._path)
            temporary = file.with_suffix(".tmp")
            temporary.write_text(json.dumps(load), encoding="utf-8")
            temporary.replace(file)
        except OSError as error:
            log.warning("The launcher's load could not be written: %s.", error)

    def _reap_orphans(self) -> None:
        """Ends, in a child, the executions that dead processes left open."""
        try:
            pid = os.fork()
        except OSError as error:
            log.error("No process could be started to look for dead attempts: %s.", error)
            return
        if pid == 0:
            self._be_reaper()
        # Not waited for here: the next SIGCHLD finds it among the children.
        self._children[pid] = None

    def _be_reaper(self) -> None:
        try:
            self._leave()
            self._imported.forget_changed_code()
            from runtime import worker

            worker.reap_orphans()
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
    handover = Handover.received()
    further = [name.strip() for name in os.environ.get(PRELOAD, "").split(",")]
    modules = (*LIBRARIES, *OWN_MODULES, *filter(None, further))
    imported = Imported.by(modules) if handover is None else handover.complete(lambda: Imported.by(modules), path)
    logs.speak()
    from runtime import metadata_store  # What this imports is there by now.

    metadata_store.warm_up()
    # What is there now is shared with every child; the collector must not touch, and so copy, it.
    gc.collect()
    gc.freeze()
    Server(path, imported, handover).serve()
