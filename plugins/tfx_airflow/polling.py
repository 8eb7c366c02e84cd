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

    What it is made of is kept apart from the attributes that Airflow's triggerer sets itself: it overwrites `task_id`.

    Args:
      **told: What the trigger is made of; with the same the triggerer makes it again.
    """

    poll_s: ClassVar[float] = 1.0
    """Seconds between two looks."""
    settle_s: ClassVar[float] = 5.0
    """Seconds before the first: a task that goes on before Airflow's scheduler has heard that it was put off is taken
    for lost, which costs it a try."""

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
        await asyncio.sleep(self.settle_s)
        while True:
            seen = await look()
            if seen is not None:
                yield TriggerEvent(seen)
                return
            await asyncio.sleep(self.poll_s)

    @abstractmethod
    def look(self) -> dict[str, Any] | None:
        """What the event tells; None while there is none."""
