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

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

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
        self.expires = 0.0
        """Event time of its timer, seconds; 0 for none."""

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


class KeepsLog(beam.DoFn, Generic[T]):
    """A step of which each key's state is a log, and which forgets what is old.

    Args:
      name: Of the step, unique in this process.
      age_s: For how long an entry is needed, seconds of event time.
      least_s: Between two times of forgetting, seconds of event time.
      many: A log of fewer entries forgets nothing, so that the timers of a sparse stream are few, too.
    """

    LOG = BagStateSpec("log", BytesCoder())
    TOKEN = ReadModifyWriteStateSpec("token", BytesCoder())
    EXPIRY = TimerSpec("expiry", TimeDomain.WATERMARK)

    def __init__(self, name: str, age_s: float, least_s: float, many: int = 0) -> None:
        self._name, self._age_s, self._least_s, self._many = name, age_s, least_s, many

    def start_bundle(self) -> None:
        """See Beam."""
        self._logs = Logs(self._read)

    def finish_bundle(self) -> None:
        """Holds nothing until the next bundle, which may be another step's turn."""
        self.start_bundle()

    def _log_of(self, key: str, log: Any, token: Any) -> Mirrored[T]:
        return self._logs.of((self._name, key), log, token)

    def _added(self, one: Mirrored[T], log: Any, expiry: Any) -> None:
        """To be called when something was added to a log."""
        if one.is_long:
            self._rewrite(one, log)
        if len(one.content) > self._many and not one.expires:
            # After a restart a timer may wait; it is set anew for what the log held before.
            self._expire_later(one, 0.0, expiry)

    @on_timer(EXPIRY)
    def expire(
        self,
        key: Any = beam.DoFn.KeyParam,
        log: Any = beam.DoFn.StateParam(LOG),
        token: Any = beam.DoFn.StateParam(TOKEN),
        stamp: Any = beam.DoFn.TimestampParam,
        expiry: Any = beam.DoFn.TimerParam(EXPIRY),
    ) -> None:
        """Forgets what is old."""
        one, now_s = self._log_of(key, log, token), stamp.micros / 1e6
        self._forget(one.content, now_s - self._age_s)
        self._rewrite(one, log)
        one.expires = 0.0
        if len(one.content) > self._many:
            self._expire_later(one, now_s + self._least_s, expiry)

    def _expire_later(self, one: Mirrored[T], earliest_s: float, expiry: Any) -> None:
        one.expires = max(halfway(self._times(one.content)) + self._age_s, earliest_s)
        expiry.set(Timestamp(one.expires))

    def _rewrite(self, one: Mirrored[T], log: Any) -> None:
        log.clear()
        for entry in self._entries(one.content):
            log.add(entry)
        one.entries = len(one.content)

    def _read(self, log: Iterable[bytes]) -> tuple[T, int]:
        """What a log says, whatever order the engine gives it in, and how many entries those are."""
        raise NotImplementedError

    def _entries(self, content: T) -> Iterable[bytes]:
        """A log that says the same."""
        raise NotImplementedError

    def _times(self, content: T) -> Iterable[float]:
        """Event times of the entries, seconds."""
        raise NotImplementedError

    def _forget(self, content: T, before_s: float) -> None:
        """Removes entries of that event time or older."""
        raise NotImplementedError
