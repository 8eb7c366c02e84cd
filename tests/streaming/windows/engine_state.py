"""State of a key as an engine keeps it, for tests that run a step's bundles by themselves."""

from __future__ import annotations

import random
from typing import Any


class State:
    """Of one key, as an engine keeps it: what a bundle writes is there when the bundle ends."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.token: bytes | None = None
        self.at: float | None = None


class Handle:
    """Log and timer of a key while a bundle runs."""

    def __init__(self, state: State, dice: random.Random) -> None:
        self.value, self._dice = state, dice

    def read(self) -> Any:
        return self._dice.sample(self.value.log, len(self.value.log))

    def clear(self) -> None:
        self.value.log = []

    def add(self, entry: bytes) -> None:
        self.value.log = [*self.value.log, entry]

    def set(self, stamp: Any) -> None:
        self.value.at = stamp.micros / 1e6


class Token:
    def __init__(self, state: State) -> None:
        self.value = state

    def read(self) -> bytes | None:
        return self.value.token

    def write(self, token: bytes) -> None:
        self.value.token = token


def copy(states: dict[str, State]) -> dict[str, State]:
    copied = {}
    for name, state in states.items():
        copied[name] = State()
        vars(copied[name]).update(vars(state))
    return copied
