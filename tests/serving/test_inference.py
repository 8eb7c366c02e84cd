"""Which calls run on the event loop, and how: they take turns there, and no slow call holds up another model."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref

import numpy as np
import pytest

from serving import inference
from serving.batching_parameters import BatchingParameters, opportunistic
from serving.errors import Code, ServingError
from serving.inference import CHEAP_S, INLINE_S, Runner
from serving.signature import Observed, Signature, size_of
from tests.serving.batching import spec

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
def test_one_call_runs_in_a_turn_of_the_loop_unless_it_is_cheap(seconds, apart, monkeypatch):
    # On a busy machine a call may take long enough to be sent to a thread.
    monkeypatch.setattr(inference.time, "perf_counter", lambda: 0.0)

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


def runs_on_the_loop(called: Signature, *arrays: np.ndarray) -> bool:
    """Whether a call that is known to be cheap runs on the event loop's thread."""
    threads = []
    made = Signature("s", "", called.inputs, (), lambda *_: threads.append(threading.get_ident()) or [])
    made.observed.steady = called.observed.steady
    made.observed.took(CHEAP_S / 2, size_of(arrays))
    asyncio.run(Runner(1).run("m", made, arrays))
    return threads == [threading.get_ident()]


def test_a_call_whose_cost_depends_on_its_values_never_runs_on_the_loop():
    called = Signature("s", "", (), (), lambda *_: [])
    assert runs_on_the_loop(called, *ROWS)
    called.observed.steady = False
    assert not runs_on_the_loop(called, *ROWS)


def test_the_same_number_of_bytes_in_other_dimensions_may_be_other_work():
    rows, grid = spec("x", None, 4), spec("x", None, None)
    small, large = np.zeros((1, 4), np.float32), np.zeros((100, 4), np.float32)
    assert runs_on_the_loop(Signature("s", "", (rows,), (), None), large)
    assert not runs_on_the_loop(Signature("s", "", (grid,), (), None), large)
    assert runs_on_the_loop(Signature("s", "", (grid,), (), None), small)
    assert not runs_on_the_loop(Signature("s", "", (rows, rows), (), None), large, small)


def test_a_call_that_surprises_shows_that_the_cost_depends_on_the_values():
    observed = Observed()
    for size, seconds in ((4, 5.0), (4, 5.0), (8, 1e-4)):  # The first of a size: all others may be like it.
        observed.took(seconds, size)
    assert observed.steady
    observed.took(5.0, 8)
    assert not observed.steady


def test_what_a_call_waits_for_is_not_its_cost():
    called = Signature("s", "", (), (), lambda *_: time.sleep(0.2) or [])
    asyncio.run(Runner(1).run("m", called, ROWS))
    assert called.observed.expected_s(size_of(ROWS)) < 0.1


def test_a_call_that_loses_the_processor_stays_on_the_loop():
    waits = iter([0.0, 0.04, 0.0])
    called = Signature("s", "", (), (), lambda *_: time.sleep(next(waits)) or [])
    called.observed.took(1e-5, size_of(ROWS))
    runner = Runner(1)

    async def run() -> None:
        for _ in range(3):
            await runner.run("m", called, ROWS)

    asyncio.run(run())
    assert called.observed.expected_s(size_of(ROWS)) < INLINE_S


def test_a_slow_first_call_is_soon_forgotten():
    observed = Observed()
    observed.took(0.1, 4)
    for _ in range(8):
        observed.took(1e-5, 4)
    assert observed.expected_s(4) < INLINE_S


@pytest.mark.parametrize("batching", [None, opportunistic(1), BatchingParameters()])
def test_slow_calls_of_one_model_keep_no_other_model_from_running(batching):
    async def run() -> None:
        let_go = threading.Event()
        slow = Signature("s", "", (spec("x", None),), (spec("y", None),), lambda x: let_go.wait(60) and [x])
        quick = Signature("q", "", (spec("x", None),), (spec("y", None),), lambda x: [x])
        runner = Runner(1, batching)
        waiting = [asyncio.ensure_future(runner.run("slow", slow, ROWS)) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*[runner.run("quick", quick, ROWS) for _ in range(20)]), 30)
        assert not any(future.done() for future in waiting)
        let_go.set()
        await asyncio.wait_for(asyncio.gather(*waiting), 30)
        runner.close()

    asyncio.run(run())


def test_too_many_calls_of_one_model_are_refused_and_those_that_are_given_up_never_start():
    async def run() -> None:
        let_go, started = threading.Event(), []
        slow = Signature("s", "", (), (), lambda x: (started.append(1), let_go.wait(60)) and [x])
        runner = Runner(1, max_waiting=2)
        calls = [asyncio.ensure_future(runner.run("slow", slow, ROWS)) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(ServingError, match="Too many requests wait for slow: 2") as refused:
            await calls[3]
        assert refused.value.code is Code.UNAVAILABLE
        calls[1].cancel()
        await asyncio.sleep(0)
        again = asyncio.ensure_future(runner.run("slow", slow, ROWS))  # There is room again.
        let_go.set()
        await asyncio.wait_for(asyncio.gather(calls[0], calls[2], again), 30)
        assert len(started) == 3
        runner.close()

    asyncio.run(run())


@pytest.mark.parametrize("batching", [None, opportunistic(2), BatchingParameters(num_batch_threads=2)])
def test_requests_that_are_given_up_leave_nothing_behind_and_a_new_version_has_threads_of_its_own(batching):
    async def run() -> None:
        let_go = threading.Event()
        stuck = Signature("s", "", (spec("x", None),), (spec("y", None),), lambda x: let_go.wait(60) and [x])
        mended = Signature("s", "", (spec("x", None),), (spec("y", None),), lambda x: [x])
        runner = Runner(2, batching, max_waiting=200)

        async def give_up() -> weakref.ref:
            array = np.zeros(1, np.float32)
            left = weakref.ref(array)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await runner.run("m", stuck, [array])
            return left

        try:
            for _ in range(2):  # Then both threads are stuck.
                await asyncio.gather(*[give_up() for _ in range(100)])
            left = await asyncio.gather(*[give_up() for _ in range(100)])
            gc.collect()
            assert sum(array() is not None for array in left) == 0
            assert (await asyncio.wait_for(runner.run("m", mended, ROWS), 30))[0].tolist() == [0]
        finally:
            let_go.set()
            runner.close()

    asyncio.run(run())


def test_the_thread_of_a_slow_call_gives_way_to_others_and_the_next_call_has_an_ordinary_one():
    async def run() -> list[int]:
        priorities: list[int] = []
        own = os.getpriority(os.PRIO_PROCESS, 0)
        slowed = threading.Event()

        def slow(x):
            while os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own:
                time.sleep(0.01)
            slowed.set()
            return [x]

        def quick(x):
            priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) - own)
            return [x]

        runner = Runner(1)
        await asyncio.wait_for(runner.run("m", Signature("s", "", (), (), slow), ROWS), 30)
        assert slowed.is_set()
        while runner._threads._lanes:
            await asyncio.sleep(0.01)
        await runner.run("m", Signature("q", "", (), (), quick), ROWS)
        await runner.run("n", Signature("q", "", (), (), quick), ROWS)
        runner.close()
        return priorities

    assert asyncio.run(run()) == [0, 0]
