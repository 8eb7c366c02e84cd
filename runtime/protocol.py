"""What crosses between a client and the process that does the work: one request, lines of output, one reply.

Standard library only: Airflow's side imports it. A frame is four bytes of length, big-endian, and JSON.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from airtight.errors import AirtightError
from airtight.home import Home

EXIT_SKIPPED = 99
"""Exit status of a node that had nothing to do (Airflow's shell operators read it as skipped, too)."""
OF_OTHERS = ("AIRFLOW", "_AIRFLOW", "AIRTIGHT_AIRFLOW_", "SUPERVISOR_")
"""Beginnings of the environment variables of Airflow, its tasks and the supervisor. No node sees them, so that it sees
the same in a child of the launcher as in a process that a task starts, and none of Airflow's connections."""
REPLAY = "replay_of"
"""Label of an attempt that executes one of a past run again, with that run's key: nothing outside hears of it."""
MAX_FRAME = 16 * 2**20
_LENGTH = struct.Struct("!I")
_LONGEST_RUN_KEY = 120
"""With a node's name of at most 96 and an attempt's of 36 it fits ML Metadata's 255 characters."""
_DIGEST_CHARACTERS = 16
_BACKLOG = 1024
"""Clients that wait while the launcher replaces itself; one more is turned away, and asks again."""
_LONGEST_SOCKET_PATH = 107
"""Bytes that the kernel takes for the address of a unix socket."""


@dataclass(frozen=True)
class NodeRequest:
    """Run one node, once.

    Args:
      compiled: Path of the compiled pipeline.
      node: Id of the node.
      run: Key of the run, as `run_key` makes it.
      attempt: Names this attempt and no other; every attempt is an execution of its own in the lineage.
      home: The state folder.
      parameters: Values of the runtime parameters, by name; what is missing takes its default.
      labels: What else the lineage keeps of the attempt (try number, Airflow's run id).
      use_cache: Whether an equal earlier result may stand for a new one, where the pipeline allows it.
      earlier: Names of the node's earlier attempts in this run; None for all that ML Metadata knows under `run`.
      unreported: Those whose success the scheduler has not heard of: one that succeeded answers this request.
      again: Whether the scheduler knows that the node succeeded in this run before.
      inputs: For each upstream node that has an output in this run the execution that made it; None for the latest
        success of each that ML Metadata knows under `run`.
      pending: Upstream nodes that run or are about to, as after a Clear, so that their output is yet to come.
    """

    compiled: str
    node: str
    run: str
    attempt: str
    home: str
    parameters: dict[str, str | int | float | bool] = field(default_factory=dict)
    labels: dict[str, str | int] = field(default_factory=dict)
    use_cache: bool = True
    earlier: tuple[str, ...] | None = None
    unreported: tuple[str, ...] = ()
    again: bool = False
    inputs: dict[str, int] | None = None
    pending: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> NodeRequest:
        """The inverse of `asdict`, from JSON."""
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists})


@dataclass(frozen=True)
class CompileRequest:
    """Compile one pipeline, or several.

    Args:
      pipeline: Id of a pipeline of `pipelines/`, `package.module:function`, or the absolute path of an IR file.
      home: The state folder.
      arguments: What the function is called with.
      environment: The environment that counts, the client's; None for that of the process that compiles. It may hold
        secrets, and goes nowhere but over the socket.
      paths: Folders in which the client finds modules.
      others: Further pipelines, with their arguments: TFX is imported once for all.
    """

    pipeline: str
    home: str
    arguments: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] | None = field(default=None, repr=False)
    paths: tuple[str, ...] = ()
    others: tuple[tuple[str, dict[str, Any]], ...] = ()

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> CompileRequest:
        """The inverse of `asdict`, from JSON."""
        others = tuple((pipeline, arguments) for pipeline, arguments in fields.get("others", ()))
        return cls(**{**fields, "paths": tuple(fields.get("paths", ())), "others": others})


Request = NodeRequest | CompileRequest
_REQUESTS: dict[str, type[NodeRequest] | type[CompileRequest]] = {"node": NodeRequest, "compile": CompileRequest}
State = Literal["complete", "cached", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Args:
      state: "failed" comes with `error`.
      summary: One line in words.
      execution: Id of the execution in ML Metadata, or None.
      outputs: For each output key its artifacts: `id`, `type`, `uri`, `properties`.
      error: `AirtightError.to_json`, or "".
    """

    state: State
    summary: str = ""
    execution: int | None = None
    outputs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    error: str = ""

    @classmethod
    def failure(cls, error: AirtightError, execution: int | None = None) -> Outcome:
        """The outcome of a fault."""
        return cls("failed", summary=str(error), execution=execution, error=error.to_json())

    def raise_if_failed(self) -> None:
        """Raises the fault that the other side met, in its family.

        Raises:
          AirtightError: The state is "failed".
        """
        if self.state == "failed":
            raise AirtightError.from_json(self.error)


def run_key(*names: str) -> str:
    """Names a run in the lineage: readable, safe everywhere, short enough for ML Metadata, different for other names.

    Airflow's ids hold ":" and "+" and up to 250 characters, and two DAGs have runs of one id.

    Args:
      *names: What tells the run apart, such as DAG id and run id; an empty one counts by its place.
    """
    text = re.sub(r"[^A-Za-z0-9_.-]", "-", ".".join(filter(None, names)))
    return _with_digest(text, json.dumps(names), _LONGEST_RUN_KEY)


def shortened(name: str, longest: int) -> str:
    """Gives a name that is at most `longest` characters long: itself, or its beginning and a digest of the whole."""
    return name if len(name) <= longest else _with_digest(name, name, longest)


def _with_digest(text: str, whole: str, longest: int) -> str:
    digest = hashlib.sha256(whole.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{text[: longest - _DIGEST_CHARACTERS - 1]}-{digest}"


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """Gives an address under which a unix socket can be bound or reached, however long its path is.

    Args:
      path: The socket's path, in a folder that exists.

    Raises:
      OSError: The path is too long, and its folder cannot be opened.
    """
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def encode_request(request: Request) -> bytes:
    """Serializes a request to a frame."""
    kind = next(kind for kind, python in _REQUESTS.items() if isinstance(request, python))
    return _frame({"kind": kind, **asdict(request)})


def decode_request(frame: dict[str, Any]) -> Request:
    """The inverse of `encode_request`, from the frame's JSON."""
    fields = dict(frame)
    return _REQUESTS[fields.pop("kind")].from_dict(fields)


def encode_outcome(outcome: Outcome) -> bytes:
    """Serializes an outcome to a frame."""
    return _frame({"kind": "outcome", **asdict(outcome)})


def is_served(path: Path) -> bool:
    """Whether a process serves on a unix socket; it does not notice, so a launcher counts no request.

    Args:
      path: The socket's path.
    """
    try:
        with socket_address(path) as address, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
    except OSError as error:
        # The kernel looks for the process behind the socket first, and compares the types then.
        return error.errno == errno.EPROTOTYPE
    return False


def listen(path: Path) -> socket.socket:
    """Makes the socket on which a launcher serves, in place of one that a killed launcher left behind.

    Args:
      path: Its path; it is its owner's alone, and so is a folder that is made for it, and that of the state folder.

    Raises:
      SystemExit: A launcher serves there already.
    """
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
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with socket_address(path) as address:
            listener.bind(address)
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def load_file(launcher: Path) -> Path:
    """Where a launcher notes its load: JSON with how many requests are `running`, have `ended`, and of these `died`.

    It has `memory_bytes`, when it `started` in Unix seconds, and the folder of the nodes' `temporary` folders, too: the
    launcher that starts after this one was killed removes them.

    Args:
      launcher: Its socket.
    """
    return launcher.with_suffix(".json")


def load_of(launcher: Path) -> dict[str, Any]:
    """What a launcher that is up has noted of its load; empty where none is, or it has noted nothing yet.

    Args:
      launcher: Its socket.
    """
    # One that was killed leaves its note behind.
    if not is_served(launcher):
        return {}
    try:
        load: dict[str, Any] = json.loads(load_file(launcher).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return load


def encode_exit(status: int) -> bytes:
    """Serializes the wait status of a process that ended, to a frame."""
    return _frame({"kind": "exit", "status": status})


def decode_outcome(frame: dict[str, Any]) -> Outcome:
    """The inverse of `encode_outcome`, from the frame's JSON."""
    fields = dict(frame)
    fields.pop("kind")
    return Outcome(**fields)


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """Reads one frame; None when the other side has closed before it was whole."""
    head = _receive_exactly(connection, _LENGTH.size)
    if head is None:
        return None
    size = _LENGTH.unpack(head)[0]
    if size > MAX_FRAME:
        return None
    body = _receive_exactly(connection, size)
    return None if body is None else json.loads(body)


def receive_with_output(connection: socket.socket) -> tuple[dict[str, Any] | None, int | None]:
    """Reads one frame and the file descriptor for output that travels with its first byte."""
    head, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    output = descriptors[0] if descriptors else None
    rest = _receive_exactly(connection, _LENGTH.size - 1) if head else None
    if rest is None:
        return None, output
    size = _LENGTH.unpack(head + rest)[0]
    body = _receive_exactly(connection, size) if size <= MAX_FRAME else None
    return (None if body is None else json.loads(body)), output


def _frame(payload: dict[str, Any]) -> bytes:
    body = json.dumps(payload).encode()
    return _LENGTH.pack(len(body)) + body


def _receive_exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = connection.recv(size - len(parts))
        except ConnectionResetError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)
