"""A trigger that polls in a thread until it has an event."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async


class PollingTrigger(BaseTrigger):
    """Fires when a poll returns an event.

    Its arguments are kept in a dict of their own: the triggerer sets attributes on a trigger, `task_id` among them.

    Args:
      **arguments: The trigger's arguments, JSON; the triggerer creates it again with the same.
    """

    poll_s: ClassVar[float] = 1.0
    """Seconds between two polls."""
    settle_s: ClassVar[float] = 5.0
    """Seconds before the first poll. If a task resumes before the scheduler has recorded its deferral, the scheduler
    treats it as lost and uses up a retry."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Returns how the triggerer creates it again: its class and its arguments."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", dict(self.arguments)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Polls until there is an event, and yields that one."""
        poll = sync_to_async(self.poll, thread_sensitive=False)
        await asyncio.sleep(self.settle_s)
        while True:
            payload = await poll()
            if payload is not None:
                yield TriggerEvent(payload)
                return
            await asyncio.sleep(self.poll_s)

    @abstractmethod
    def poll(self) -> dict[str, Any] | None:
        """Returns the event's payload, JSON, or None while there is none."""
