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


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time passes when the test says so."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def pass_until(self, now: float) -> None:
        """Lets everything happen that is due, before and after the time passes."""
        for passed in (self.now, now):
            self.now = passed
            for _ in range(10):
                await asyncio.sleep(0)


def test_each_ends_when_its_own_time_is_over():
    async def body() -> None:
        clock = asyncio.get_running_loop()
        deadlines, never, now = Deadlines(2.0), asyncio.Event(), asyncio.Event()
        now.set()
        first = asyncio.create_task(waits(deadlines, never))
        await clock.pass_until(1.0)
        second = asyncio.create_task(waits(deadlines, never))
        await clock.pass_until(1.9)
        assert not first.done()
        await clock.pass_until(2.1)
        assert first.done() and not second.done(), "it began later"
        assert await waits(deadlines, now) == "answered"
        await clock.pass_until(3.1)
        assert (await first, await second) == ("too late", "too late")
        third = asyncio.create_task(waits(deadlines, never))
        await clock.pass_until(3.2)
        await clock.pass_until(5.2)
        assert third.done() and await third == "too late", "the timer is set again"
        assert asyncio.current_task().cancelling() == 0

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(body())


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
