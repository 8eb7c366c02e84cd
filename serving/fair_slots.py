"""Slots for work of several models: no model's work waits for more than one piece of another model's in each slot."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque


class FairSlots:
    """A semaphore whose slots go to the waiting model that holds fewest, and of those to the one served longest ago.

    The event loop's thread alone touches it.

    Args:
      limit: Slots.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._served: dict[str, int] = {}  # When a model got its last slot; of models that hold or wait for one.
        self._serials = itertools.count(1)

    async def acquire(self, model: str) -> None:
        """Waits for a slot; `release` gives it back.

        Args:
          model: Whose work it is.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(model, deque()).append(turn)
        self._hand_out()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # It had just been given one.
                self.release(model)
            raise

    def release(self, model: str) -> None:
        """Gives a slot of this model's back."""
        self._free += 1
        self._held[model] -= 1
        self._hand_out()
        self._forget(model)

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            model = min(self._waiting, key=lambda name: (self._held[name], self._served.get(name, 0)))
            turns = self._waiting[model]
            turn = turns.popleft()
            if not turns:
                del self._waiting[model]
            if turn.done():  # Nobody waits for it any more.
                self._forget(model)
                continue
            self._free -= 1
            self._held[model] += 1
            self._served[model] = next(self._serials)
            turn.set_result(None)

    def _forget(self, model: str) -> None:
        if not self._held[model] and model not in self._waiting:
            del self._held[model]
            self._served.pop(model, None)
