"""From what a job goes on: a record of each job by name, which outlives the Flink that runs it.

A JobManager that is started anew knows no earlier job. The record names the job's checkpoints, and the savepoint with
which it was stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlparse

from airtight.errors import TerminalError, TransientError
from airtight.files import write_text
from airtight.home import Home
from streaming.engine.flink_rest import Flink

PATIENCE_S = 5.0
"""How long a command waits for another one, or for a watcher that keeps a checkpoint, to let go of a job's record."""
RECENTLY_S = 300.0
"""A job that failed so lately may be one that fails again and again."""


@dataclass(frozen=True)
class JobRecord:
    """What is kept of a job.

    Args:
      name: Of the job.
      id: Flink's, of its last submission.
      checkpoints: Folder of that submission's checkpoints, a URL; empty where the cluster has no setting for it.
      start: From what it would go on as it was known last: a checkpoint, or the savepoint with which it was stopped.
      stopped: Whether it was stopped on purpose, so that no checkpoint is newer than `start`.
      savepoints: With which it was stopped, the newest last.
      earlier: Folder of the checkpoints of the submission before, from which this one may have been started.
      submitted: When it was submitted last, ISO 8601; like what follows, for those who watch it.
      code: Digest of the code that it runs.
      servers: The brokers, host:port,host:port.
      topics: That it reads.
      dead_letters: Topic of its dead letters, or "".
      slots: Parallel parts, which it keeps when it is submitted again; 0 for not known.
      idle_s: Silence after which event time goes on by the clock, likewise; None for what its declaration says.
    """

    name: str
    id: str
    checkpoints: str = ""
    start: str = ""
    stopped: bool = False
    savepoints: tuple[str, ...] = ()
    earlier: str = ""
    submitted: str = ""
    code: str = ""
    servers: str = ""
    topics: tuple[str, ...] = ()
    dead_letters: str = ""
    slots: int = 0
    idle_s: float | None = None


def load(name: str, home: Home | None = None) -> JobRecord | None:
    """The record of a job; None for one that was never submitted."""
    try:
        fields = json.loads(_file(name, home).read_text(encoding="utf-8"))
        return JobRecord(**fields | {name: tuple(fields.get(name, ())) for name in ("topics", "savepoints")})
    except FileNotFoundError:
        return None


def save(record: JobRecord, home: Home | None = None) -> None:
    """Keeps the record, whole or not at all."""
    write_text(_file(record.name, home), json.dumps(asdict(record), indent=1))


@contextlib.contextmanager
def locked(name: str, home: Home | None = None, patience_s: float | None = None) -> Iterator[None]:
    """Nobody else who uses this state folder submits or stops the job meanwhile.

    Args:
      name: Of the job.
      home: The state folder with the records; None is the current one.
      patience_s: How long somebody else is waited for; None is PATIENCE_S.

    Raises:
      TransientError: Somebody else does.
    """
    path = _file(name, home).with_name(f"{name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
    with path.open("w") as file:
        while not _locks(file):
            if time.monotonic() >= deadline:
                raise TransientError(
                    f"The job {name} is being submitted or stopped.",
                    expected="one command at a time",
                    received=f"another one holds {path}",
                    remedy="Wait until that has ended, and see what it came to.",
                )
            time.sleep(0.05)
        yield


def _locks(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start_point(flink: Flink, name: str, home: Home | None = None) -> str:
    """The newest complete checkpoint or savepoint of a job; empty for a job that has none.

    Flink is asked first. Where it does not know the job any more, the folder of its checkpoints is looked at, or, where
    that is on no file system of this host, what the record knew last.

    Args:
      flink: The cluster.
      name: Of the job.
      home: The state folder with the records; None is the current one.

    Raises:
      TransientError: Flink does not answer.
    """
    record = load(name, home)
    if record is None or record.stopped:
        return record.start if record else ""
    try:
        path = flink.checkpoints(record.id).path
    except TerminalError:
        path = newest_checkpoint(record.checkpoints)
    # A job that was ended before its first checkpoint goes on from what it was started from itself.
    path = path or record.start
    save(replace(record, start=path), home)
    return path


def stop(flink: Flink, name: str, home: Home | None = None, folder: str = "") -> str:
    """Ends a job with a savepoint, from which `flink_jobs.resume` goes on; one that fails again and again without.

    Older savepoints with which it was stopped are removed, but for the last one before, and those on no file system of
    this host.

    Args:
      flink: The cluster.
      name: Of the job.
      home: The state folder with the records; None is the current one.
      folder: Where the savepoint goes, a URL; empty is the cluster's own setting.

    Returns:
      The savepoint's path; where the job fails too often to write one, that of its last checkpoint, "" for none.

    Raises:
      TerminalError: No job of that name runs.
      TransientError: Flink does not answer, a job that is well writes no savepoint and goes on, or somebody else
        submits or stops the job.
    """
    with locked(name, home):
        job = flink.running(name)
        if job is None:
            raise TerminalError(
                f"No job {name} runs.",
                expected=f"a running job of that name at {flink.url}",
                received=[f"{job.name} {job.state}" for job in flink.jobs()] or "no job",
                remedy="Start it, or correct its name.",
            )
        record = load(name, home) or JobRecord(name, job.id)
        try:
            path = flink.savepoint(job.id, folder, cancel=True)
            record = _with_savepoint(record, path)
        except TransientError:
            now = flink.status(job.id)
            if now.job.complete and now.failed < time.time() - RECENTLY_S:
                raise
            # One that fails and is tried again and again has no moment for a savepoint.
            flink.cancel(job.id)
            path = flink.checkpoints(job.id).path or record.start
        save(replace(record, id=job.id, start=path, stopped=True), home)
        return path


def discard(flink: Flink, name: str, home: Home | None = None) -> None:
    """Ends a job of which nothing is to go on: its next start begins anew, whoever makes it.

    Raises:
      TransientError: Flink does not answer, or somebody else submits or stops the job.
    """
    with locked(name, home):
        if job := flink.running(name):
            record = load(name, home) or JobRecord(name, job.id)
            flink.cancel(job.id)
            save(replace(record, id=job.id, start="", stopped=True), home)


def keep_checkpoint(name: str, job_id: str, path: str, home: Home | None = None) -> None:
    """Keeps the newest checkpoint of a job that runs, for a JobManager that forgets it and a folder on no host."""
    with contextlib.suppress(TransientError), locked(name, home, patience_s=0):
        record = load(name, home)
        if path and record and record.id == job_id and not record.stopped and record.start != path:
            save(replace(record, start=path), home)


def newest_checkpoint(folder: str) -> str:
    """The newest complete checkpoint in a job's folder of them; empty for none, or a folder of no local file system."""
    local = _local(folder)
    complete = [path.parent for path in local.glob("chk-*/_metadata")] if local else []
    newest = max(complete, key=lambda path: int(path.name.removeprefix("chk-")), default=None)
    return newest.as_uri() if newest else ""


def remember(flink: Flink, name: str, job_id: str, start: str, home: Home | None = None, **details: Any) -> None:
    """Records a job that was just submitted, and removes the checkpoints of the one before the one before it.

    Those on no file system of this host stay: a bucket has rules of its own for what is old.

    Args:
      flink: The cluster.
      name: Of the job.
      job_id: Flink's.
      start: What it was started from; empty for anew.
      home: The state folder with the records; None is the current one.
      **details: Further fields of the record; what is not named stays as it was.
    """
    root = flink.setting("state.checkpoints.dir")
    before = load(name, home) or JobRecord(name, "")
    if (obsolete := _local(before.earlier)) and not start.startswith(before.earlier):
        shutil.rmtree(obsolete, ignore_errors=True)
    checkpoints = f"{root.rstrip('/')}/{job_id}" if root else ""
    places: dict[str, Any] = {"checkpoints": checkpoints, "start": start, "earlier": before.checkpoints}
    save(replace(before, id=job_id, stopped=False, **places, **details), home)


def _with_savepoint(record: JobRecord, path: str) -> JobRecord:
    """The record with one more savepoint; removes those that are too many."""
    *obsolete, last, new = ("", *record.savepoints, path)
    for folder in filter(None, map(_local, obsolete)):
        if folder.name.startswith("savepoint-"):
            shutil.rmtree(folder, ignore_errors=True)
    return replace(record, savepoints=tuple(filter(None, (last, new))))


def _local(folder: str) -> Path | None:
    """The path of a URL of a file system of this host; None for any other, and for none."""
    address = urlparse(folder)
    return Path(unquote(address.path)) if folder and address.scheme in ("", "file") else None


def _file(name: str, home: Home | None) -> Path:
    if not name or "/" in name or name.startswith("."):
        raise TerminalError(
            "That is no name for a job.",
            expected="a name that can be a file's",
            received=repr(name),
            remedy="Choose another name.",
        )
    return (home or Home.current()).path / "flink" / "jobs" / f"{name}.json"
