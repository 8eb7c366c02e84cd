"""Calls on the event loop take turns, so that what needs many turns of it is not held up by each of them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serving.inference import CHEAP_S, INLINE_S, Runner
from serving.signature import Signature, size_of

ROWS = [np.zeros(1, np.float32)]


def signature(seconds: float, seen: list[str]) -> Signature:
    """One whose calls are known to take so long; each notes itself."""
    made = Signature("s", "", (), (), lambda *_: seen.append("call") or [])
    made.observed.took(seconds, size_of(ROWS))
    return made


async def count_turns(seen: list[str], turns: int) -> None:
    for _ in range(turns):
        seen.append("turn")
        await asyncio.sleep(0)


@pytest.mark.parametrize(("seconds", "apart"), [(INLINE_S / 2, True), (CHEAP_S / 2, False)])
def test_one_call_runs_in_a_turn_of_the_loop_unless_it_is_cheap(seconds, apart):
    async def run() -> list[str]:
        seen: list[str] = []
        runner, called = Runner(1), signature(seconds, seen)
        await asyncio.gather(*[runner.run("m", called, ROWS) for _ in range(4)], count_turns(seen, 10))
        return seen

    seen = asyncio.run(run())
    assert seen.count("call") == 4
    assert ("call call" in " ".join(seen)) is not apart


def test_who_goes_while_waiting_takes_nobodys_turn():
    async def run() -> list[str]:
        seen: list[str] = []
        runner, called = Runner(1), signature(INLINE_S / 2, seen)
        tasks = [asyncio.create_task(runner.run("m", called, ROWS)) for _ in range(4)]
        await asyncio.sleep(0)
        for task in tasks[1:3]:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in ended] == [False, True, True, False]
        await asyncio.wait_for(runner.run("m", called, ROWS), 5)
        return seen

    assert asyncio.run(run()) == ["call"] * 3
