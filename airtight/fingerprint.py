"""What a module's code consists of: every file of ours that it imports, and the packages that these import.

Found by reading the import statements, not by importing: what a node happens to import while it runs is too late, and
what one process has imported is too much.
"""

from __future__ import annotations

import ast
import functools
import gc
import importlib.metadata
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from airtight.files import digest_of_file
from airtight.home import ROOT

_pinned: dict[str, str] = {}
_NAMED = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):[A-Za-z_]\w*")


def closure(modules: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The code that modules rest on.

    Args:
      modules: Dotted names.

    Returns:
      Files that are neither Python's nor an installed package's, relative to the checkout where they lie there; and
      the names of the installed distributions that these files import. Both sorted.
    """
    files: dict[str, Path] = {}
    packages: set[str] = set()
    waiting = list(modules)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        file = _source(name)
        if file is None:
            packages.add(name.partition(".")[0])
            continue
        if name.partition(".")[2]:
            waiting.append(name.rpartition(".")[0])
        files[name] = file
        waiting += _imported(name, file)
    told = {_told(file) for file in files.values()}
    ours = {name.partition(".")[0] for name in files}
    distributions = {d for p in packages - ours if (d := _distribution(p))}
    return tuple(sorted(told)), tuple(sorted(distributions))


def is_in(module: str, files: Iterable[str]) -> bool:
    """Whether a module is one of the files that `closure` gave, or none of ours at all."""
    file = _source(module)
    return file is None or _told(file) in files


def closure_of_file(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The code that a file outside of every package rests on, as `closure` gives it; the file itself is in it."""
    look_again()
    files, distributions = closure(_imported("", file))
    return tuple(sorted({_told(file), *files})), distributions


def look_again() -> None:
    """Forgets where modules were found, or were not: files and the places where Python looks may have changed."""
    _spec.cache_clear()


def module_of(value: str) -> str:
    """The module of a parameter that names code, `package.module:attribute`; "" for any other text."""
    found = _NAMED.fullmatch(value)
    return found[1] if found else ""


def digests(files: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each file as it is now; "gone" where there is none."""
    found = {}
    for name in files:
        file = ROOT / name
        found[name] = digest_of_file(file) if file.is_file() else "gone"
    return found


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The version of each distribution: the imported one where `pin_versions` gave it, else the installed one.

    Args:
      distributions: Their names.

    Returns:
      The version by name; "gone" for a distribution that is not installed.
    """
    found = {}
    for name in distributions:
        try:
            found[name] = _pinned.get(normalized(name)) or importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "gone"
    return found


def pin_versions(imported: Mapping[str, str]) -> None:
    """Sets what `versions` gives for distributions that this process has imported: an upgrade does not change them.

    Args:
      imported: The version by normalized name.
    """
    _pinned.update(imported)


def normalized(distribution: str) -> str:
    """The name of a distribution as the packaging standard normalizes it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def is_foreign(file: Path) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    resolved = file.resolve()
    return any(resolved.is_relative_to(folder) for folder in _foreign())


def _told(file: Path) -> str:
    resolved = file.resolve()
    return str(resolved.relative_to(ROOT) if resolved.is_relative_to(ROOT) else resolved)


@functools.cache
def _foreign() -> frozenset[Path]:
    return frozenset(Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib"))


@functools.cache
def _spec(name: str) -> ModuleSpec | None:
    """Where a module of ours would be imported from; nothing is imported to find out."""
    package, _, _ = name.rpartition(".")
    if not package:
        return None if name in sys.stdlib_module_names else PathFinder.find_spec(name)
    parent = _spec(package)
    places = list(parent.submodule_search_locations or ()) if parent else []
    return PathFinder.find_spec(name, places) if places and not is_foreign(Path(places[0])) else None


def _source(name: str) -> Path | None:
    """The source of a module of ours; None for any other, and for what is no module."""
    spec = _spec(name)
    file = Path(spec.origin) if spec and spec.origin else None
    return file if file and file.suffix == ".py" and not is_foreign(file) else None


def _imported(name: str, file: Path) -> Iterator[str]:
    """Modules that a file names in its import statements, wherever they stand in it."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for statement in ast.walk(_parsed(file)):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            base = statement.module or ""
            if statement.level:
                parents = package.split(".")[: len(package.split(".")) - statement.level + 1]
                base = ".".join([*parents, *filter(None, [base])])
            yield base
            if _source(base) is not None:
                # A name that is imported may be a module of its own.
                yield from (f"{base}.{a.name}" for a in statement.names if _source(f"{base}.{a.name}") is not None)


def _parsed(file: Path) -> ast.Module:
    """The syntax tree of a file, parsed with garbage collection at rest.

    A finalizer that the collector runs may log a traceback, which Python 3.11 renders by parsing; the interpreter keeps
    one account of the depth for all parsing, and the outer one ends in a SystemError.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(file.read_bytes(), str(file))
    finally:
        if collects:
            gc.enable()


def _distribution(package: str) -> str:
    """The distribution that brings a package, or "" for Python's own and for what is not installed."""
    if package in sys.stdlib_module_names:
        return ""
    try:
        return str(importlib.metadata.metadata(package)["Name"])
    except importlib.metadata.PackageNotFoundError:
        # A package shared by many distributions, such as google, says nothing of one.
        found = _all_distributions().get(package, [])
        return found[0] if len(found) == 1 else ""


@functools.cache
def _all_distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
