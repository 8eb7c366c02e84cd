"""Which code a pipeline's function is made of: what decides a fit's course beside the rows and the settings."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def files(function: Callable[..., Any]) -> list[Path]:
    """The files of the function's module and of those in its package that it names, and that these name, in order."""
    return sorted({Path(file) for module in _modules(function) if (file := inspect.getsourcefile(module))})


def versions(function: Callable[..., Any]) -> dict[str, str]:
    """The versions of the libraries that those modules import as a whole, by the library's name."""
    named = {name for module in _modules(function) for name in _named(module)}
    libraries = {name.partition(".")[0] for name in named}
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in sorted(libraries)}
    return {name: version for name, version in found.items() if isinstance(version, str)}


def _modules(function: Callable[..., Any]) -> list[ModuleType]:
    first = sys.modules[function.__module__]
    package = f"{first.__name__.rpartition('.')[0]}."
    found = [first]
    for module in found:
        near = [name for name in sorted(_named(module)) if name.startswith(package)]
        found += [sys.modules[name] for name in near if name in sys.modules and sys.modules[name] not in found]
    return found


def _named(module: ModuleType) -> set[str]:
    """Names of the modules that a module's globals are, or come from."""
    values = list(vars(module).values())
    return {
        name
        for value in values
        if isinstance(name := value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None), str)
    }
