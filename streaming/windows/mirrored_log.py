"""A log in the engine's state, and what it comes to in this process's memory, so that a bundle need not read it.

A token, written with each bundle's change, says whether state and memory agree: after a fault, or when another worker
had the log, it is read again. Beam's own cache of state measures each entry in milliseconds.
"""

from __future__ import annotations

import threading
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, Protocol, TypeVar

SLACK = 256
"""Entries of a log that say nothing any more before it is written anew, beside as many as do."""
KEPT_S = 600.0
"""A log that is not used for so long leaves the memory, and is read again when it is needed."""


_EVEN = "atmrr"
"""Flink chooses a key's slot by its hash. With these letters before them, 8 and 16 numbers lie evenly on 2, 4 and 8."""


def shared_key(text: str, keys: int) -> str:
    """The key of the engine's state that a text shares with others: a bundle needs a few states, not one for each text.

    Args:
      text: What belongs to the state.
      keys: How many there are; so many slots can share the work at most. 8 or 16.
    """
    return f"{_EVEN}{zlib.crc32(text.encode()) % keys}"


def halfway(times: Iterable[float]) -> float:
    """The time by which half of some things are old, so that a log is written anew when it becomes half as long.

    A timer for the oldest one would fire again and again while a backlog is read: event time goes on by one timer a
    bundle, and all that is read meanwhile would wait for it.
    """
    ordered = sorted(times)
    return ordered[(len(ordered) - 1) // 2]


class Content(Protocol):
    """What a log comes to; `len` is how many entries it needs at least."""

    def __len__(self) -> int: ...


T = TypeVar("T", bound=Content)


class Mirrored(Generic[T]):
    """A log's content.

    Args:
      content: What its entries come to.
      entries: How many those are.
    """

    def __init__(self, content: T, entries: int) -> None:
        self.content, self.entries = content, entries
        self.token, self.used = b"", 0.0

    @property
    def is_long(self) -> bool:
        """Whether most of the log says nothing any more."""
        return self.entries > 2 * len(self.content) + SLACK


in_memory: OrderedDict[Hashable, Mirrored[Any]] = OrderedDict()
"""Of this process, by name; the one that was used last is the last one."""
_LOCK = threading.Lock()
"""Of `in_memory`: a process has a thread for each bundle."""


class Logs(Generic[T]):
    """The logs of one bundle.

    Args:
      read: Entries of a log, in any order -> its content, and how many there were.
    """

    def __init__(self, read: Callable[[Iterable[bytes]], tuple[T, int]]) -> None:
        self._read = read
        self._current: dict[Hashable, Mirrored[T]] = {}

    def of(self, name: Hashable, log: Any, token: Any) -> Mirrored[T]:
        """The log, as it is in state. Once in a bundle a new token is written: what comes may change it.

        Args:
          name: Unique in this process.
          log: Handle of its bag state, of bytes.
          token: Handle of its state of one value, bytes.
        """
        if name in self._current:
            return self._current[name]
        written = token.read()
        with _LOCK:
            one = in_memory.pop(name, None)
        if one is None or one.token != written:
            one = Mirrored(*self._read(log.read()))
        one.token, one.used = uuid.uuid4().bytes, time.monotonic()
        token.write(one.token)
        self._current[name] = one
        with _LOCK:
            in_memory[name] = one
            for other in [other for other, held in in_memory.items() if held.used < one.used - KEPT_S]:
                del in_memory[other]
        return one
