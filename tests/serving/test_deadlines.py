"""One timer that ends whichever requests take too long."""

import asyncio
import time

import pytest

from serving.deadlines import Deadlines


async def waits(deadlines: Deadlines, event: asyncio.Event) -> str:
    try:
        with deadlines.limited():
            await event.wait()
            return "answered"
    except TimeoutError:
        return "too late"


def test_each_ends_when_its_own_time_is_over():
    async def body() -> tuple[list[str], int]:
        deadlines, never, now = Deadlines(0.2), asyncio.Event(), asyncio.Event()
        now.set()
        first = asyncio.create_task(waits(deadlines, never))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(waits(deadlines, never))
        await asyncio.wait([first])
        assert not second.done(), "it began later"
        answers = [await first, await waits(deadlines, now), await second, await waits(deadlines, never)]
        return answers, asyncio.current_task().cancelling()

    assert asyncio.run(body()) == (["too late", "answered", "too late", "too late"], 0)


def test_without_a_limit_nothing_ends():
    async def body() -> str:
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, event.set)
        return await waits(Deadlines(None), event)

    assert asyncio.run(body()) == "answered"


def test_a_task_that_another_cancels_is_cancelled_and_no_time_is_over():
    async def body() -> None:
        deadlines = Deadlines(0.2)
        task = asyncio.create_task(waits(deadlines, asyncio.Event()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await waits(deadlines, asyncio.Event()) == "too late", "the timer goes on for others"

    asyncio.run(body())


def test_both_at_once_cancel_the_task():
    async def body() -> None:
        deadlines = Deadlines(0.05)

        async def blocked() -> None:
            with deadlines.limited():
                await asyncio.sleep(60)

        task = asyncio.create_task(blocked())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.05, task.cancel)
        asyncio.get_running_loop().call_soon(time.sleep, 0.1)  # Both are due in one turn of the loop.
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(body())
