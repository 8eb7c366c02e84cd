"""User code is named by string, `package.module:attribute`, and loaded where it runs."""

from __future__ import annotations

import difflib
import importlib
from types import ModuleType
from typing import Any

from airtight.errors import TerminalError


def load(name: str) -> Any:
    """Imports what `package.module:attribute` names.

    Raises:
      TerminalError: The name has another form, the module cannot be found, or it has no such attribute.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise TerminalError(
            "That names no code.",
            expected="package.module:attribute",
            received=repr(name),
            remedy="Correct the name in the pipeline.",
        )
    module = load_module(module_name)
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        raise TerminalError(
            f"The module {module_name} has no {attribute!r}.",
            expected=f"an attribute of {module_name}" + (f"; did you mean {near[0]!r}?" if near else ""),
            received=repr(name),
            remedy="Correct the name in the pipeline.",
        )
    return getattr(module, attribute)


def load_module(name: str) -> ModuleType:
    """Imports a module.

    Raises:
      TerminalError: It cannot be found.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # An import that fails inside the module is the module's own fault and keeps its traceback.
        if not error.name or not name.startswith(error.name):
            raise
        raise TerminalError(
            f"The module {name!r} cannot be found.",
            expected="a module on PYTHONPATH",
            received=f"no module named {error.name!r}",
            remedy="Correct the name in the pipeline, or put the checkout's root on PYTHONPATH.",
        ) from error
