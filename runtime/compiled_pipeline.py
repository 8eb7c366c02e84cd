"""A compiled pipeline on disk: TFX's intermediate representation and what Airflow needs beside it, as JSON.

Where it lies is compiled_store's business. Standard library only: Airflow's side reads it at every parse.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from airtight.errors import TerminalError
from airtight.files import digest_of_file, new_file
from airtight.home import ROOT
from airtight.parameters import Parameter, Scalar

FORMAT = 6
"""Raised when the meaning of a field changes; an older file is compiled again."""
_LONGEST_ID = 200
_LARGE = 16 * 2**20


PUSHED = "PushedModel"
"""The artifact type of what a node pushed to a place outside of its outputs."""
ENDED_ANYHOW = ("ALL_UPSTREAM_NODES_COMPLETED", "LAZILY_ALL_UPSTREAM_NODES_COMPLETED")
"""TFX's trigger strategies of nodes that run when those before them have ended, well or not."""


@dataclass(frozen=True)
class Cache:
    """When a node's earlier result may stand for a new one, and what its result rests on beside inputs and parameters.

    Args:
      enabled: Whether an earlier result may be used.
      days: After so many days it may not; 0 for never.
      on: `package.module:function` that tells of what else the result rests on, or "".
      code: Files of the component's own code and of all that it imports, relative to the checkout where they lie there.
      distributions: Installed packages that these files import.
    """

    enabled: bool = False
    days: float = 0
    on: str = ""
    code: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Cache:
        """The inverse of `asdict`, from JSON."""
        return cls(**{**fields, "code": tuple(fields["code"]), "distributions": tuple(fields["distributions"])})


@dataclass(frozen=True)
class Node:
    """What a scheduler needs to know of one node.

    Args:
      id: Its id.
      type: Its component's name.
      upstream: Ids of the nodes that must have ended before.
      needs: For each input that it cannot do without, the upstream nodes of which one at least must have run. Without
        the other upstream nodes it runs, too, when they were skipped.
      may_skip: Whether it may itself decide that it has nothing to do.
      doc: What it does, from the component's docstring.
      outputs: Artifact type of each output key.
      retries: How often a failed node is tried again, or None for the scheduler's own default.
      timeout_s: Seconds after which it is given up, 0 for never.
      trigger: TFX's trigger strategy, such as "ALL_UPSTREAM_NODES_COMPLETED"; empty for the usual one.
      ends: The node whose resource this one gives back: it runs when that one succeeded and all between have ended.
      after_previous: The node of the run of the interval before that must have ended before this one begins, or "".
      history_days: Days before the run's interval of which its inputs across runs hold all that was made.
      airflow: Arguments of the Airflow task that the pipeline's code chose (`pool`, `queue`, ...).
      cache: When an earlier result may stand for a new one.
      task: Id of its task: its own, without what Airflow refuses in an id.
    """

    id: str
    type: str
    upstream: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...] = ()
    may_skip: bool = False
    doc: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    retries: int | None = None
    timeout_s: int = 0
    trigger: str = ""
    ends: str = ""
    after_previous: str = ""
    history_days: float = 0
    airflow: dict[str, Any] = field(default_factory=dict)
    cache: Cache = Cache()
    task: str = ""

    def __post_init__(self) -> None:
        if not self.task:
            object.__setattr__(self, "task", self.id)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Node:
        """The inverse of `asdict`, from JSON."""
        tuples = {"upstream": tuple(fields["upstream"]), "needs": tuple(tuple(group) for group in fields["needs"])}
        return cls(**{**fields, **tuples, "cache": Cache.from_dict(fields["cache"])})


@dataclass(frozen=True)
class CompiledPipeline:
    """One compiled pipeline.

    Args:
      source: What was compiled: a name, `package.module:function` or the absolute path of an IR file.
      pipeline: The pipeline's id in TFX.
      doc: Documentation, Markdown.
      zone: IANA time zone in which bare dates are meant.
      parameters: The runtime parameters, without those of the interval.
      required: Names of parameters that have no default.
      interval: Whether the pipeline wants `interval_start` and `interval_end`.
      nodes: The nodes, in topological order.
      types: Modules of the artifact types that TFX does not bring.
      sources: What `fingerprint_of` gives for each file and folder that the pipeline was made of, code and what it
        read, by path (relative to the checkout where it lies there).
      tfx: Version of TFX that compiled it.
      ir: The pipeline, as JSON of TFX's `Pipeline` proto.
      arguments: What `create_pipeline` was called with.
      environment: SHA-256 of each environment variable that the pipeline's code read, by name; "" for one not set.
      paths: Folders beside the checkout in which its modules are found.
      folder: Where its relative paths begin and its nodes run: the folder of its file; "" for the checkout.
    """

    source: str
    pipeline: str
    doc: str
    zone: str
    parameters: tuple[Parameter, ...]
    required: tuple[str, ...]
    interval: bool
    nodes: tuple[Node, ...]
    types: tuple[str, ...]
    sources: dict[str, str]
    tfx: str
    ir: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    folder: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the whole, hexadecimal; the name of the file that it was read from."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Writes the compiled pipeline, whole or not at all, for its owner alone.

        A short secret that its code read from the environment can be guessed from the digest of its value.
        """
        with new_file(path) as temporary:
            temporary.touch(0o600)
            temporary.write_text(self._text(), encoding="utf-8")

    def _text(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def read(cls, path: Path) -> CompiledPipeline:
        """Reads a compiled pipeline.

        Raises:
          TerminalError: It is not there, or of another format.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise unreadable(path, str(error)) from error
        if fields.pop("format", None) != FORMAT:
            raise unreadable(path, "a compiled pipeline of another format")
        fields["parameters"] = tuple(Parameter.from_dict(p) for p in fields["parameters"])
        fields["nodes"] = tuple(Node.from_dict(node) for node in fields["nodes"])
        compiled = cls(**fields | {name: tuple(fields[name]) for name in ("required", "types", "paths")})
        vars(compiled)["digest"] = path.stem
        return compiled

    def node(self, node_id: str) -> Node:
        """The node of that id.

        Raises:
          TerminalError: There is none.
        """
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise TerminalError(
            f"The pipeline {self.pipeline} has no node {node_id!r}.",
            expected=f"one of {', '.join(n.id for n in self.nodes)}",
            received=repr(node_id),
            remedy="Correct the node's name; if the node was added after this run began, clear the whole run.",
        )

    def before(self, node_id: str) -> set[str]:
        """Ids of the nodes that come before a node, directly or not."""
        ancestors: set[str] = set()
        waiting = [node_id]
        while waiting:
            upstream = set(self.node(waiting.pop()).upstream) - ancestors
            ancestors |= upstream
            waiting += upstream
        return ancestors

    def bind(self, given: dict[str, Any]) -> dict[str, Scalar]:
        """Checks the values of a run and fills in the defaults.

        Args:
          given: Values by name, those of the interval too.

        Raises:
          TerminalError: An unknown name, a missing value, a wrong type or a value out of range.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        ends = ("interval_start", "interval_end") if self.interval else ()
        unknown = sorted(set(given) - set(known) - {"interval_start", "interval_end"})
        missing = [name for name in (*self.required, *ends) if given.get(name) is None]
        if unknown or missing:
            raise TerminalError(
                f"The parameters of this run do not fit the pipeline {self.pipeline}.",
                expected=f"values for {', '.join((*known, *ends)) or 'nothing'}",
                received=f"unknown: {', '.join(unknown) or 'none'}; missing: {', '.join(missing) or 'none'}",
                remedy="Correct them on the trigger form, in the run's conf or on the command line.",
            )
        bound = {name: p.check(given.get(name, p.default)) for name, p in known.items()}
        return bound | {name: str(given[name]) for name in ends}

    def stale(self) -> str:
        """Why the compiled pipeline must be compiled again, in words; empty when it need not be.

        The environment that counts is this process's.
        """
        installed = _installed("tfx")
        if installed and installed != self.tfx:
            return f"TFX {installed} is installed, and {self.tfx} compiled it"
        for name, digest in self.sources.items():
            now = fingerprint_of(ROOT / name)
            if now != digest:
                return f"{name} {'was not there' if not digest else 'changed' if now else 'is gone'}"
        for name, digest in self.environment.items():
            if digest_of_variable(os.environ, name) != digest:
                return f"the environment variable {name} changed"
        return ""


def _installed(package: str) -> str:
    """The version here; "" where only Airflow is installed, whose launcher has the package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def fingerprint_of(path: Path) -> str:
    """What tells apart what a file or a folder holds; "" where neither is.

    Of a file it is the SHA-256, or for a large one, read at every parse, size and time of change. Of a folder it is the
    SHA-256 of the names in it, without hidden ones and Python's byte code.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            names = sorted(name for name in os.listdir(path) if not name.startswith(".") and name != "__pycache__")
            return hashlib.sha256(os.fsencode("\0".join(names))).hexdigest()
        if not stat.S_ISREG(status.st_mode):
            return ""
        return digest_of_file(path) if status.st_size <= _LARGE else f"{status.st_size} bytes at {status.st_mtime_ns}"
    except (FileNotFoundError, NotADirectoryError):
        return ""


def digest_of_variable(environment: Mapping[str, str], name: str) -> str:
    """SHA-256 of a variable's value, which may be a secret; "" for one that is not set."""
    return hashlib.sha256(os.fsencode(environment[name])).hexdigest() if name in environment else ""


def safe_id(name: str) -> str:
    """A name as Airflow takes it for a DAG or a task: letters, digits, `_`, `-` and `.`, 200 at most."""
    return re.sub(r"[^\w.-]", "_", name)[:_LONGEST_ID]


def unreadable(path: Path, why: str) -> TerminalError:
    """The fault of a compiled pipeline that is not there, or is none."""
    return TerminalError(
        f"The compiled pipeline {path.name} cannot be read.",
        expected=f"a compiled pipeline of format {FORMAT}",
        received=why,
        remedy="Run `python -m runtime compile` for the pipeline, and clear the whole run if there is one.",
    )
