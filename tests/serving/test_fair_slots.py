"""Slots that models share: who gets the next one, and that none is lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serving.fair_slots import FairSlots
from serving.inference import LARGE_BYTES, Runner


def test_models_take_turns_and_those_with_fewer_slots_come_first():
    async def run() -> list[str]:
        slots, order = FairSlots(2), []

        async def work(model: str) -> None:
            await slots.acquire(model)
            order.append(model)
            await asyncio.sleep(0)
            slots.release(model)

        waiting = [asyncio.ensure_future(work(model)) for model in "aaaaaabbc"]
        await asyncio.gather(*waiting)
        assert not slots._served and not slots._held and not slots._waiting
        return order

    assert asyncio.run(run()) == list("aabcabaaa")


@pytest.mark.parametrize("granted", [True, False])
def test_who_goes_while_waiting_leaves_its_slot_to_others(granted):
    async def run() -> None:
        slots = FairSlots(1)
        await slots.acquire("a")
        gone = asyncio.ensure_future(slots.acquire("b"))
        await asyncio.sleep(0)
        if granted:
            slots.release("a")
            gone.cancel()
        else:
            gone.cancel()
            await asyncio.sleep(0)
            slots.release("a")
        with pytest.raises(asyncio.CancelledError):
            await gone
        await asyncio.wait_for(slots.acquire("c"), 10)
        slots.release("c")
        assert not slots._served and not slots._held and not slots._waiting

    asyncio.run(run())


def test_large_conversions_of_one_model_delay_another_models_by_one_at_most():
    async def run() -> None:
        runner, order, go_on = Runner(1), [], threading.Semaphore(0)

        def convert(model: str) -> None:
            assert go_on.acquire(timeout=30)
            order.append(model)

        many = [asyncio.ensure_future(runner.convert("a", LARGE_BYTES, convert, "a")) for _ in range(5)]
        await asyncio.sleep(0)
        many[0].cancel()  # Its thread goes on, and keeps the slot.
        other = asyncio.ensure_future(runner.convert("b", LARGE_BYTES, convert, "b"))
        await asyncio.sleep(0.05)
        assert runner._slots._held == {"a": 1}
        for _ in many:
            go_on.release()
        go_on.release()
        await other
        assert order[:2] == ["a", "b"]
        await asyncio.gather(*many, return_exceptions=True)
        assert len(order) == 6
        runner.close()

    asyncio.run(run())
