"""What a pipeline's code reads while it is compiled, beside its modules: files, folders and environment variables.

Python tells of each file that it opens and each folder that it lists by an audit event, and `os.environ` is made to
tell of each variable. What counts is what the pipeline's own code asks for, be it through a library: what libraries
read when they are imported says nothing of the pipeline.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, NoneType
from typing import Any

from airtight import fingerprint
from airtight.home import ROOT, Home
from runtime.compiled_pipeline import digest_of_variable, fingerprint_of

OF_THE_PROCESS = frozenset({"AIRTIGHT_HOME", "CUDA_VISIBLE_DEVICES", "TF_CPP_MIN_LOG_LEVEL", "TMPDIR"})
"""Variables that are those of the process which compiles, whoever asked it to: they are no part of what was asked."""
_TOOLS = tuple(str(ROOT / name) + os.sep for name in ("airtight", "runtime", "plugins"))
_FUNCTIONS = (os.getenv, os.path.expandvars, pathlib.Path.home.__func__, Mapping.get)  # type: ignore[attr-defined]
_THROUGH = frozenset(function.__code__.co_filename for function in _FUNCTIONS)
"""Files of Python through which code reads the environment: `os.getenv`, `os.path.expandvars`."""
_IMPORT = "<frozen importlib._bootstrap_external>"
_METADATA = os.path.dirname(importlib.metadata.__file__) + os.sep
"""It lists every folder of Python's path to find one distribution."""
_SYSTEM = ("/proc/", "/sys/", "/dev/", "/usr/share/zoneinfo/")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_LISTS = ("os.listdir", "os.scandir")


class Inputs:
    """What was read.

    Args:
      home: The state folder: its data change all the time, and are no part of a pipeline.
    """

    def __init__(self, home: Home) -> None:
        self._home = str(home.path) + os.sep
        self._files: dict[str, str] = {}
        self._written: set[str] = set()
        self._variables: set[str] = set()

    def files(self) -> dict[str, str]:
        """What tells apart what each file or folder holds, by path (relative to the checkout where it lies there).

        It is "" for a file that was not there. One that has gone since was a temporary one.
        """
        return {
            fingerprint.path_in_checkout(Path(name)): held
            for name, held in self._files.items()
            if name not in self._written and (not held or os.path.exists(name))
        }

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """SHA-256 of each variable's value in an environment, by name; "" for one that is not set there."""
        return {name: digest_of_variable(environment, name) for name in sorted(self._variables)}

    def opened(self, name: Any, mode: Any, flags: int) -> None:
        """Notes a file that is being opened."""
        if not isinstance(name, (str, bytes, os.PathLike)):
            return
        path = os.path.abspath(os.fsdecode(name))
        writes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool(flags & _WRITES)
        if writes:
            self._written.add(path)
            return
        if path.endswith(".pyc"):
            try:
                path = importlib.util.source_from_cache(path)
            except ValueError:
                return
        caller = sys._getframe(2)
        is_imported = caller.f_code.co_filename == _IMPORT
        if path.startswith(_SYSTEM) or path.startswith(_TOOLS) or fingerprint.is_foreign(Path(path)):
            return
        # An import reads code whoever asks for it, be it by the file's place.
        if is_imported or (not path.startswith(self._home) and _is_wanted_by_pipeline(caller)):
            self._note(path)

    def listed(self, name: Any) -> None:
        """Notes a folder whose names are being read."""
        if not isinstance(name, (str, bytes, os.PathLike, NoneType)):
            return
        path = os.path.abspath(os.fsdecode(name or "."))
        if path.startswith((*_SYSTEM, *_TOOLS, self._home)) or fingerprint.is_foreign(Path(path)):
            return
        if _is_wanted_by_pipeline(sys._getframe(2)):
            self._note(path)

    def _note(self, path: str) -> None:
        # As it is now: what is written to it later was not read.
        if not self._files.get(path):
            self._files[path] = fingerprint_of(Path(path))

    def note_variable(self, name: str) -> None:
        """Notes a variable that is being read."""
        if name in OF_THE_PROCESS:
            return
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename in _THROUGH:
            frame = frame.f_back
        if frame is not None and _is_pipelines(frame.f_code.co_filename):
            self._variables.add(name)


@contextmanager
def recording(home: Home) -> Iterator[Inputs]:
    """Notes, while the block runs, what the pipeline's code reads."""
    if not _State.is_hooked:
        # A hook stays for the life of the process.
        sys.addaudithook(_hook)
        _State.is_hooked = True
    before, _State.inputs = _State.inputs, Inputs(home)
    kind, os.environ.__class__ = os.environ.__class__, _Environment
    try:
        yield _State.inputs
    finally:
        os.environ.__class__ = kind
        _State.inputs = before


class _State:
    inputs: Inputs | None = None
    is_hooked = False


class _Listed(str):
    """A name that came from a walk over the whole environment: reading it so asks for no variable in particular."""

    __slots__ = ()


class _Environment(os._Environ):
    """`os.environ`, which tells what is read of it."""

    def __getitem__(self, key: str) -> str:
        if _State.inputs is not None and not isinstance(key, _Listed):
            _State.inputs.note_variable(key)
        return str(super().__getitem__(key))

    def __iter__(self) -> Iterator[str]:
        return (_Listed(name) for name in super().__iter__())


def _hook(event: str, args: tuple[Any, ...]) -> None:
    inputs = _State.inputs
    if inputs is None or (event != "open" and event not in _LISTS):
        return
    _State.inputs = None  # What is opened to find out is not of interest.
    try:
        inputs.opened(*args) if event == "open" else inputs.listed(*args)
    finally:
        _State.inputs = inputs


def _is_wanted_by_pipeline(frame: FrameType | None) -> bool:
    """Whether the pipeline's code asked for it, and not an import of a library."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(("<frozen importlib", _METADATA, _TOOLS[1] + "compile")):
            return False
        if _is_pipelines(name):
            return True
        frame = frame.f_back
    return False


def _is_pipelines(name: str) -> bool:
    """Whether a file's code is a pipeline's: neither Python's, nor installed, nor ours that compiles it."""
    return not name.startswith(("<", *_TOOLS)) and not fingerprint.is_foreign(Path(name))
