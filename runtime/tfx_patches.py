"""What is put in the place of parts of TFX while its launcher runs a node."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tfx.orchestration.portable import inputs_utils, launcher

from runtime import cache


@contextlib.contextmanager
def own_cache(kept: cache.Cache) -> Iterator[None]:
    """Puts our cache in the place of TFX's, which its launcher asks by the name of a module."""
    theirs, launcher.cache_utils = launcher.cache_utils, kept
    try:
        yield
    finally:
        launcher.cache_utils = theirs


@contextlib.contextmanager
def caught_exceptions() -> Iterator[list[Exception]]:
    """Yields a list that gets the exceptions that TFX turns into a text, where it resolves inputs and parameters."""
    caught: list[Exception] = []

    def keep(resolve: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(resolve)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return resolve(*args, **kwargs)
            except Exception as error:
                caught.append(error)
                raise

        return call

    names = ("resolve_input_artifacts", "resolve_dynamic_parameters")
    theirs = {name: getattr(inputs_utils, name) for name in names}
    for name, resolve in theirs.items():
        setattr(inputs_utils, name, keep(resolve))
    try:
        yield caught
    finally:
        for name, resolve in theirs.items():
            setattr(inputs_utils, name, resolve)


@contextlib.contextmanager
def no_flags() -> Iterator[None]:
    """TFX hands the flags of this process to every Python executor; they are not meant for it."""
    flags, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = flags
