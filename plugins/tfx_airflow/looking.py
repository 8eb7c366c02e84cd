"""A trigger that looks again and again, in a thread, until there is something to tell."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async


class Looking(BaseTrigger):
    """Fires when a look has something to tell.

    Args:
      **told: What the trigger is made of; with the same the triggerer makes it again.
    """

    poll_s: ClassVar[float] = 1.0
    """Seconds between two looks."""

    def __init__(self, **told: Any) -> None:
        super().__init__()
        self.told = told

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes it again."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", dict(self.told)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Looks until there is an event."""
        look = sync_to_async(self.look, thread_sensitive=False)
        while True:
            seen = await look()
            if seen is not None:
                yield TriggerEvent(seen)
                return
            await asyncio.sleep(self.poll_s)

    @abstractmethod
    def look(self) -> dict[str, Any] | None:
        """What the event tells; None while there is none."""
