"""Waiting for another process in a test."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")
PATIENCE_S = 180


def until(true: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """Waits for something to become true and gives it; the test fails when it never does."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if value := true():
            return value
        time.sleep(0.1)
    pytest.fail(f"never came true: {what}")
