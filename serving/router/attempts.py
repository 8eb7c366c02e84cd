"""What limits sending a request again: a budget for all of them, and a quarantine for those that end servers."""

from __future__ import annotations

import enum
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable


class Outcome(enum.Enum):
    """How one attempt to have a request answered by a server ended."""

    ANSWERED = enum.auto()
    ABSENT = enum.auto()  # The server does not have the model, or the version; it may be loading it still.
    UNSENT = enum.auto()  # There was no connection, so the server knows nothing of the request.
    CUT = enum.auto()  # The connection ended before the answer: the request may have ended the server.
    BUSY = enum.auto()  # The server turned it away: 503, UNAVAILABLE.
    FULL = enum.auto()  # It has no room for it now, or never: 429, RESOURCE_EXHAUSTED.
    FAULT = enum.auto()  # The server, or the model, failed: 500, INTERNAL and their kin.


class RetryBudget:
    """Retries are a share of all requests, so that servers that fail for load do not get more of it.

    Args:
      share: Retries for each request.
      burst: Retries that may be saved up; a router begins with a tenth of them.
    """

    def __init__(self, share: float = 0.1, burst: float = 100.0) -> None:
        self._share, self._burst = share, burst
        self._left = burst / 10

    def add_request(self) -> None:
        """Counts a request that a client sent."""
        self._left = min(self._left + self._share, self._burst)

    def take(self) -> bool:
        """Spends one retry; False where none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Quarantine:
    """Requests that were on their way when connections were cut; a good answer to the same request clears it.

    A request is known by its body and its target: what one version of a model does with a body says nothing of another.

    Args:
      cuts: With so many, a request is passed to no server.
      hold_s: Seconds from the last cut for which that holds.
      entries: Requests that are remembered.
      clock: Seconds that never go back.
    """

    def __init__(
        self, cuts: int = 2, hold_s: float = 60.0, entries: int = 1024, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._hold_s, self._entries, self._clock = cuts, hold_s, entries, clock
        self._cuts: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def holds(self, target: str, content: bytes) -> bool:
        """Whether a request with this target (path or method) and body is to be passed to no server now."""
        self._forget()  # Without entries nothing is hashed.
        return bool(self._cuts) and bool(content) and self._count(_digest(target, content)) >= self._limit

    def cut(self, target: str, content: bytes, began: float) -> None:
        """Counts a connection that was cut while this request was on its way.

        A server that ends cuts all its connections: of the same request under way on several of them one cut counts.

        Args:
          target: Path or method.
          content: The body; an empty one is not counted.
          began: When the attempt began that was cut; of the clock.
        """
        if not content:
            return
        self._forget()
        key = _digest(target, content)
        count = self._count(key)
        if count and began < self._cuts[key][1] - self._hold_s:
            return
        self._cuts[key] = (count + 1, self._clock() + self._hold_s)
        self._cuts.move_to_end(key)
        while len(self._cuts) > self._entries:
            self._cuts.popitem(last=False)

    def clear(self, target: str, content: bytes) -> None:
        """The request was answered."""
        if self._cuts and content:
            self._cuts.pop(_digest(target, content), None)

    def _count(self, key: bytes) -> int:
        return self._cuts.get(key, (0, 0.0))[0]

    def _forget(self) -> None:
        """Drops what is held no longer: it stands in front, in the order of the last cuts."""
        while self._cuts:
            key, (_, until) = next(iter(self._cuts.items()))
            if until >= self._clock():
                return
            del self._cuts[key]


_ENDS = 1 << 20


def _digest(target: str, content: bytes) -> bytes:
    """Of target and body, or of a large body's length and ends: hashing 256 MiB would hold up all other requests."""
    parts = (content,) if len(content) <= 2 * _ENDS else (content[:_ENDS], content[-_ENDS:])
    digest = hashlib.blake2b(f"{len(content)} {target}\n".encode("utf-8", "surrogatepass"), digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
