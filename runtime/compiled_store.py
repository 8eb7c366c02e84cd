"""Where compiled pipelines lie, which of them DAGs use, and with which of them a run began.

Each lies under the SHA-256 of its contents, `compiled/<name>/<digest>.json`, and never changes; the file `current`
beside them holds the digest of the one that DAGs use. A run of Airflow's keeps the one that its first task had: that
task writes a record, and all tasks of the run follow it (adr/0020). Standard library only: Airflow's tasks use it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airtight.errors import TerminalError
from airtight.files import new_file, write_text
from airtight.home import Home
from runtime.compiled_pipeline import CompiledPipeline, unreadable

IR_FILES = (".json", ".pbtxt", ".pb")
"""Suffixes of files with a pipeline's IR: JSON, text and binary."""
_CURRENT = "current"
_RUNS = "runs"
_CANDIDATES = 20
_DAY_S = 86_400
RUN_DAYS = 366
"""So long a record of a run stays at least after its last task began."""


@dataclass(frozen=True)
class RunRecord:
    """With what a run began.

    Args:
      compiled: The compiled pipeline, `<name>/<digest>`, as `name_of` gives it.
      params: The run's params that the pipeline reads.
    """

    compiled: str
    params: dict[str, Any]


def keep(compiled: CompiledPipeline, home: Home) -> Path:
    """Writes a compiled pipeline to its place in a state folder, and returns that; the current one stays the same."""
    path = folder_of(compiled.source, home, compiled.arguments) / f"{compiled.digest}.json"
    try:
        _touch(path)
    except FileNotFoundError:
        compiled.write(path)
    return path


def publish(compiled: CompiledPipeline, home: Home) -> Path:
    """Keeps a compiled pipeline as the current one, which DAGs use from now on, and returns its path."""
    path = keep(compiled, home)
    write_text(path.with_name(_CURRENT), f"{path.stem}\n")
    return path


def is_ir_file(source: str) -> bool:
    """Whether a source is the path of an IR file."""
    return Path(source).suffix in IR_FILES and ":" not in Path(source).name


def absolute(source: str) -> str:
    """The source in the one spelling that means the same in every process: an IR file's path is made absolute."""
    return str(Path(source).resolve()) if is_ir_file(source) else source


def folder_of(source: str, home: Home, arguments: Mapping[str, Any] | None = None) -> Path:
    """The folder of a pipeline's compiled forms: readable, and another one for each source and arguments."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", ".", absolute(source)).strip(".")[-100:]
    return home.compiled / f"{readable}-{hashlib.sha256(_identity(source, arguments).encode()).hexdigest()[:8]}"


def path_of(source: str, home: Home, arguments: Mapping[str, Any] | None = None) -> Path:
    """Path of the current compiled form of a pipeline, which may not be there."""
    return _current_in(folder_of(source, home, arguments))


def name_of(compiled: CompiledPipeline, home: Home) -> str:
    """Names one compiled pipeline, `<name>/<digest>`, the same wherever the state folder lies."""
    return f"{folder_of(compiled.source, home, compiled.arguments).name}/{compiled.digest}"


def path_of_name(name: str, home: Home) -> Path:
    """The inverse of `name_of`: the compiled pipeline's path."""
    return home.compiled / f"{name}.json"


def current(source: str, home: Home, arguments: Mapping[str, Any] | None = None) -> CompiledPipeline:
    """Reads the current compiled form of a pipeline.

    Raises:
      TerminalError: There is none, it is of another format, or of another pipeline.
    """
    path = path_of(source, home, arguments)
    compiled = CompiledPipeline.read(path)
    if _identity(compiled.source, compiled.arguments) != _identity(source, arguments):
        raise unreadable(path, f"the compiled form of {compiled.source}")
    return compiled


def usable(source: str, home: Home, arguments: Mapping[str, Any] | None = None) -> CompiledPipeline | None:
    """The compiled form of a pipeline, used last, that is made of what there is now, or None.

    The current one is looked at first, then earlier ones: code, files and environment may be as they were before.
    """
    for path in _in_order(folder_of(source, home, arguments))[:_CANDIDATES]:
        # One that a clean-up takes at this moment is none.
        with contextlib.suppress(TerminalError, FileNotFoundError):
            compiled = CompiledPipeline.read(path)
            same = _identity(compiled.source, compiled.arguments) == _identity(source, arguments)
            if same and not compiled.stale():
                _touch(path)
                return compiled
    return None


def all_known(home: Home) -> Iterator[CompiledPipeline]:
    """Every pipeline that was compiled here: the current form, or the newest; one of another format is left out."""
    for folder in sorted(path for path in home.compiled.glob("*") if path.is_dir() and path.name != _RUNS):
        for path in _in_order(folder):
            try:
                yield CompiledPipeline.read(path)
                break
            except TerminalError:
                continue


def _identity(source: str, arguments: Mapping[str, Any] | None) -> str:
    try:
        return json.dumps([absolute(source), dict(arguments or {})], sort_keys=True)
    except TypeError as error:
        raise TerminalError(
            f"The pipeline {source} cannot be compiled with these arguments.",
            expected="values that JSON can hold",
            received=str(error),
            remedy="Give numbers, texts, lists and dicts, and let create_pipeline make of them what it needs.",
        ) from error


def _current_in(folder: Path) -> Path:
    try:
        return folder / f"{(folder / _CURRENT).read_text(encoding='utf-8').strip()}.json"
    except FileNotFoundError:
        return folder / "none.json"


def _in_order(folder: Path) -> list[Path]:
    """The compiled forms in a folder: the current one, which may not be there, then the others, used last first."""
    times: dict[Path, float] = {}
    for path in folder.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime
    return list(dict.fromkeys([_current_in(folder), *sorted(times, key=times.__getitem__, reverse=True)]))


def _touch(path: Path) -> None:
    """Notes that a file is used, so that it is young: clean-up goes by age."""
    os.utime(path)


def record_of_run(run: tuple[str, ...], record: RunRecord, home: Home) -> RunRecord:
    """Returns with what a run began; the first that asks says it. Record and compiled pipeline count as used now.

    Args:
      run: The parts of its key, which tell it apart from every other run, and from itself before it was cleared.
      record: What counts if none has asked yet.
      home: The state folder.
    """
    path = home.compiled / _RUNS / f"{hashlib.sha256(json.dumps(run).encode()).hexdigest()}.json"
    try:
        _touch(path)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError), new_file(path, exclusive=True) as temporary:
            payload = {"run": run, **asdict(record)}
            temporary.write_text(json.dumps(payload, indent=1, sort_keys=True, default=str), encoding="utf-8")
    kept = _record_in(path)
    with contextlib.suppress(FileNotFoundError):  # The task says in words what is missing.
        _touch(path_of_name(kept.compiled, home))
    return kept


def remove_old(home: Home, *, days: float, dry_run: bool = False) -> list[Path]:
    """Removes compiled pipelines that are neither current nor of a recent run, and old records of runs.

    Args:
      home: The state folder.
      days: What was made or asked for within so many days stays; a day at least. What a run began with stays for a year
        after its last task began, so that one that waits long, for a person say, does not go on with another pipeline.
      dry_run: Only list.

    Returns:
      The compiled pipelines that went.
    """
    now = time.time()
    oldest, oldest_run = now - max(days, 1) * _DAY_S, now - max(days, RUN_DAYS) * _DAY_S
    records = set((home.compiled / _RUNS).glob("*.json"))
    used = {path_of_name(_record_in(path).compiled, home) for path in records if not _is_old(path, oldest_run)}
    kept = used | {_current_in(folder) for folder in home.compiled.glob("*") if folder.is_dir()}
    removed = []
    for path in home.compiled.glob("*/*.json"):
        # Whoever has come to use it since the records were read has made it young.
        if path not in kept and _is_old(path, oldest_run if path in records else oldest):
            removed.append(path)
            if not dry_run:
                path.unlink(missing_ok=True)
    return sorted(path for path in removed if path not in records)


def _is_old(path: Path, oldest: float) -> bool:
    """Whether a file was used last before an instant; it may be gone, as another clean-up removes it."""
    try:
        return path.stat().st_mtime < oldest
    except FileNotFoundError:
        return True


def _record_in(path: Path) -> RunRecord:
    fields = json.loads(path.read_text(encoding="utf-8"))
    return RunRecord(fields["compiled"], fields["params"])
