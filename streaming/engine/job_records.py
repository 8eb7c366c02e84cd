"""From what a job goes on: a record of each job by name, which outlives the Flink that runs it.

A JobManager that is started anew knows no earlier job. The record names the job's checkpoints, and the savepoint with
which it was stopped.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlparse

from airtight.errors import TerminalError
from airtight.files import write_text
from airtight.home import Home
from streaming.engine.flink_rest import Flink


@dataclass(frozen=True)
class JobRecord:
    """What is kept of a job.

    Args:
      name: Of the job.
      id: Flink's, of its last submission.
      checkpoints: Folder of that submission's checkpoints, a URL; empty where the cluster has no setting for it.
      start: From what it would go on as it was known last: a checkpoint, or the savepoint with which it was stopped.
      stopped: Whether it was stopped with a savepoint, so that no checkpoint is newer.
      earlier: Folder of the checkpoints of the submission before, from which this one may have been started.
      submitted: When it was submitted last, ISO 8601; like what follows, for those who watch it.
      code: Digest of the code that it runs.
      servers: The brokers, host:port,host:port.
      topics: That it reads.
      dead_letters: Topic of its dead letters, or "".
    """

    name: str
    id: str
    checkpoints: str = ""
    start: str = ""
    stopped: bool = False
    earlier: str = ""
    submitted: str = ""
    code: str = ""
    servers: str = ""
    topics: tuple[str, ...] = ()
    dead_letters: str = ""


def load(name: str, home: Home | None = None) -> JobRecord | None:
    """The record of a job; None for one that was never submitted."""
    try:
        fields = json.loads(_file(name, home).read_text(encoding="utf-8"))
        return JobRecord(**{**fields, "topics": tuple(fields.get("topics", ()))})
    except FileNotFoundError:
        return None


def save(record: JobRecord, home: Home | None = None) -> None:
    """Keeps the record, whole or not at all."""
    write_text(_file(record.name, home), json.dumps(asdict(record), indent=1))


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
    """Ends a job with a savepoint, from which `flink_jobs.resume` goes on.

    Args:
      flink: The cluster.
      name: Of the job.
      home: The state folder with the records; None is the current one.
      folder: Where the savepoint goes, a URL; empty is the cluster's own setting.

    Returns:
      The savepoint's path.

    Raises:
      TerminalError: No job of that name runs.
      TransientError: Flink does not answer, or the savepoint fails: the job then goes on.
    """
    job = flink.running(name)
    if job is None:
        raise TerminalError(
            f"No job {name} runs.",
            expected=f"a running job of that name at {flink.url}",
            received=[f"{job.name} {job.state}" for job in flink.jobs()] or "no job",
            remedy="Start it, or correct its name.",
        )
    path = flink.savepoint(job.id, folder, cancel=True)
    record = load(name, home) or JobRecord(name, job.id)
    save(replace(record, id=job.id, start=path, stopped=True), home)
    return path


def newest_checkpoint(folder: str) -> str:
    """The newest complete checkpoint in a job's folder of them; empty for none, or a folder of no local file system."""
    local = _local(folder)
    complete = [path.parent for path in local.glob("chk-*/_metadata")] if local else []
    newest = max(complete, key=lambda path: int(path.name.removeprefix("chk-")), default=None)
    return newest.as_uri() if newest else ""


def remember(flink: Flink, name: str, job_id: str, start: str, home: Home | None = None) -> None:
    """Records a job that was just submitted, and removes the checkpoints of the one before the one before it.

    Those on no file system of this host stay: a bucket has rules of its own for what is old.

    Args:
      flink: The cluster.
      name: Of the job.
      job_id: Flink's.
      start: What it was started from; empty for anew.
      home: The state folder with the records; None is the current one.
    """
    root = flink.setting("state.checkpoints.dir")
    before = load(name, home) or JobRecord(name, "")
    if (obsolete := _local(before.earlier)) and not start.startswith(before.earlier):
        shutil.rmtree(obsolete, ignore_errors=True)
    checkpoints = f"{root.rstrip('/')}/{job_id}" if root else ""
    save(JobRecord(name, job_id, checkpoints, start, earlier=before.checkpoints), home)


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
