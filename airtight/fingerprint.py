"""What a module's code consists of: every file of ours that it imports, and the packages that these import.

Found by reading the import statements, not by importing: what a node happens to import while it runs is too late, and
what one process has imported is too much. A file that computes the names of modules (`import_module(name)`, a walk over
a package) rests on every module that it can reach so: those of its own package, of the packages that it imports, and of
those that the call names in part.
"""

from __future__ import annotations

import ast
import functools
import gc
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path

from airtight.files import digest_of_file
from airtight.home import ROOT

_pinned: dict[str, str] = {}
_NAMED = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*):[A-Za-z_]\w*")
_LOADERS = (
    *("import_module", "__import__", "iter_modules", "walk_packages"),
    *("spec_from_file_location", "SourceFileLoader", "run_path", "run_module"),
)
"""Functions that take a module's name, or its place, from a value."""
_Import = ast.Import | ast.ImportFrom
_BY_PARAMETER = "airtight.import_string"
"""It loads what a node's parameters name, and the cache follows these itself."""


def closure(modules: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The code that modules rest on.

    Args:
      modules: Dotted names.

    Returns:
      Files that are neither Python's nor an installed package's, relative to the checkout where they lie there; and
      the names of the installed distributions that these files import. Both sorted.
    """
    files: set[str] = set()
    ours: set[str] = set()
    packages: set[str] = set()
    waiting = list(modules)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if not name or name in seen:
            continue
        seen.add(name)
        top = name.partition(".")[0]
        if not _is_ours(name):
            packages.add(top)
            continue
        ours.add(top)
        waiting.append(name.rpartition(".")[0])
        # A folder without __init__.py is a package, too, and has no source of its own.
        if file := _source(name):
            files.add(path_in_checkout(file))
            waiting += _imported(name, file)
    distributions = {d for p in packages - ours if (d := _distribution(p))}
    return tuple(sorted(files)), tuple(sorted(distributions))


def is_in(module: str, files: Iterable[str]) -> bool:
    """Whether a module is one of the files that `closure` gave, or none of ours at all."""
    file = _source(module)
    return file is None or path_in_checkout(file) in files


def closure_of_file(file: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The code that a file outside of every package rests on, as `closure` gives it; the file itself is in it."""
    look_again()
    files, distributions = closure(_imported("", file))
    return tuple(sorted({path_in_checkout(file), *files})), distributions


def look_again() -> None:
    """Forgets where modules were found, or were not: files and the places where Python looks may have changed."""
    for kept in (_spec, _imported, _folders, _real_folder, _distribution):
        kept.cache_clear()
    importlib.invalidate_caches()


def module_of(value: str) -> str:
    """The module of a parameter that names code, `package.module:attribute`; "" for any other text."""
    match = _NAMED.fullmatch(value)
    return match[1] if match else ""


def digests(files: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each file as it is now; "gone" where there is none."""
    return {name: digest_of_file(ROOT / name) if (ROOT / name).is_file() else "gone" for name in files}


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The version of each distribution: the imported one where `pin_versions` gave it, else the installed one.

    Args:
      distributions: Their names.

    Returns:
      The version by name; "gone" for a distribution that is not installed.
    """
    installed = {}
    for name in distributions:
        try:
            installed[name] = _pinned.get(normalized(name)) or importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "gone"
    return installed


def folder_of(module: str) -> Path | None:
    """The folder of a module's file, found without importing it; None where there is no such file."""
    spec = _spec(module)
    return Path(spec.origin).resolve().parent if spec and spec.origin and Path(spec.origin).is_file() else None


def path_in_checkout(file: Path) -> str:
    """A file's path, relative to the checkout where it lies there."""
    real = _real(file)
    return "." if real == str(ROOT) else real.removeprefix(f"{ROOT}{os.sep}")


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
    return f"{_real(file)}{os.sep}".startswith(_foreign())


def _real(file: Path) -> str:
    """A file's path without links; thousands of files share their folders, whose links are followed once."""
    folder, name = os.path.split(os.path.abspath(file))
    path = os.path.join(_real_folder(folder), name)
    return os.path.realpath(path) if os.path.islink(path) else path


@functools.cache
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


@functools.cache
def _foreign() -> tuple[str, ...]:
    paths = {os.path.realpath(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return tuple(f"{path}{os.sep}" for path in sorted(paths))


@functools.cache
def _spec(name: str) -> ModuleSpec | None:
    """Where a module would be imported from; nothing is imported to find out.

    Python's own `find_spec` wants a package's parent to be imported where the package has no __init__.py, so the
    folders are asked here one by one, as it does.
    """
    package, _, _ = name.rpartition(".")
    if package:
        parent = _spec(package)
        places = list(parent.submodule_search_locations or ()) if parent else []
    else:
        places = [] if name in sys.stdlib_module_names else sys.path
    portions: list[str] = []
    for place in places:
        finder = pkgutil.get_importer(place)
        spec = finder.find_spec(name) if finder else None
        if spec is None:
            continue
        if spec.loader is not None:
            return spec
        portions += [portion for portion in spec.submodule_search_locations or () if not is_foreign(Path(portion))]
    if not portions:
        return None
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = portions
    return spec


def _is_ours(name: str) -> bool:
    """Whether a name is that of a module or a package which is neither Python's nor installed."""
    return _source(name) is not None or bool(_folders(name))


def _source(name: str) -> Path | None:
    """The source of a module of ours; None for any other, and for what is no module."""
    spec = _spec(name)
    file = Path(spec.origin) if spec and spec.origin else None
    return file if file and file.suffix == ".py" and not is_foreign(file) else None


@functools.cache
def _folders(name: str) -> tuple[Path, ...]:
    """The folders of a package of ours; none for what is no package."""
    spec = _spec(name)
    places = (spec.submodule_search_locations if spec else None) or ()
    return tuple(Path(place) for place in places if not is_foreign(Path(place)))


@functools.cache
def _imported(name: str, file: Path) -> tuple[str, ...]:
    """Modules that a file names in its import statements, wherever they stand in it, and those that it may compute."""
    imports, loads = _statements(file.read_bytes())
    return tuple(_named(name, file, imports, loads))


def _named(name: str, file: Path, imports: Iterable[_Import], loads: Iterable[ast.Call]) -> Iterator[str]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    bound: list[str] = []
    for statement in imports:
        if isinstance(statement, ast.Import):
            bound += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            base = statement.module or ""
            if statement.level:
                parents = package.split(".")[: len(package.split(".")) - statement.level + 1]
                base = ".".join([*parents, *filter(None, [base])])
            yield base
            # A name that is imported may be a module of its own.
            names = [f"{base}.{alias.name}" for alias in statement.names] if _folders(base) else []
            bound += [name for name in names if _is_ours(name)]
            if any(alias.name == "*" for alias in statement.names):
                yield from _modules_in(base)
    yield from bound
    if name != _BY_PARAMETER:
        yield from _computed(loads, package, file, bound)


def _computed(loads: Iterable[ast.Call], package: str, file: Path, bound: list[str]) -> Iterator[str]:
    """Modules whose names a file computes, or says in the call that loads them."""
    reached: set[str] = set()
    for call in loads:
        first = call.args[0] if call.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and not first.value.endswith(".py"):
            yield _absolute(first.value, call, package)
            continue
        reached |= {package, *bound}
        texts = [part.value for part in ast.walk(call) if isinstance(part, ast.Constant)]
        reached.update(_longest_package(text) for text in texts if isinstance(text, str))
    for name in reached:
        yield from _modules_in(name)
    if reached and not package:
        yield from (beside.stem for beside in file.parent.glob("*.py") if _source(beside.stem) == beside)


def _absolute(name: str, call: ast.Call, package: str) -> str:
    """The absolute name of a module that a call names by a constant, `import_module(".words", __package__)`."""
    if not name.startswith("."):
        return name
    anchors = [*call.args[1:], *(keyword.value for keyword in call.keywords if keyword.arg == "package")]
    anchor = next((a.value for a in anchors if isinstance(a, ast.Constant) and isinstance(a.value, str)), package)
    try:
        return importlib.util.resolve_name(name, anchor)
    except ImportError:
        return ""


def _longest_package(text: str) -> str:
    """The package of ours that a text begins with, as in `"team.features." + name`."""
    name = re.split(r"[^\w.]", text)[0].strip(".")
    while name and not _folders(name):
        name = name.rpartition(".")[0]
    return name


def _modules_in(package: str) -> Iterator[str]:
    """Every module of a package of ours, those of its subpackages, too."""
    for folder in _folders(package) if package else ():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])


@functools.lru_cache(maxsize=4096)
def _statements(source: bytes) -> tuple[list[_Import], list[ast.Call]]:
    """The import statements of a source, and its calls of loaders; none of a template, say, which nobody can import."""
    try:
        nodes = list(ast.walk(_parsed(source)))
    except (SyntaxError, ValueError):
        return [], []
    imports = [node for node in nodes if isinstance(node, _Import)]
    aliases = (alias for statement in imports if isinstance(statement, ast.ImportFrom) for alias in statement.names)
    loaders = {alias.asname or alias.name for alias in aliases if alias.name in _LOADERS} | set(_LOADERS)
    calls = (node for node in nodes if isinstance(node, ast.Call))
    return imports, [c for c in calls if getattr(c.func, "attr", getattr(c.func, "id", "")) in loaders]


def _parsed(source: bytes) -> ast.Module:
    """The syntax tree of a source, parsed with garbage collection at rest.

    A finalizer that the collector runs may log a traceback, which Python 3.11 renders by parsing; the interpreter keeps
    one account of the depth for all parsing, and the outer one ends in a SystemError.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collects:
            gc.enable()


@functools.cache
def _distribution(package: str) -> str:
    """The distribution that brings a package, or "" for Python's own and for what is not installed."""
    if package in sys.stdlib_module_names:
        return ""
    try:
        return str(importlib.metadata.metadata(package)["Name"])
    except importlib.metadata.PackageNotFoundError:
        # A package shared by many distributions, such as google, says nothing of one.
        candidates = _all_distributions().get(package, [])
        return candidates[0] if len(candidates) == 1 else ""


@functools.cache
def _all_distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())
