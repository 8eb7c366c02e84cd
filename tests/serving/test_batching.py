"""Batching: requests run together, each gets its own rows, and none hears of another's fault."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

from serving.batching import Batcher
from serving.batching_parameters import BatchingParameters, opportunistic
from serving.errors import Code, ServingError
from serving.signature import Signature, size_of
from tests.serving.batching import Model, column, spec


async def until(condition) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


def batched(parameters: BatchingParameters, *requests, model: Model | None = None) -> tuple[list, list[int]]:
    """Answers (or errors) of requests that are made in one turn of the loop, and the sizes of the model's batches."""

    async def ask():
        made = model or Model()
        batcher = Batcher(parameters, made.call)
        calls = [batcher.run("m", made.signature, arrays) for arrays in requests]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return [a if isinstance(a, Exception) else a[0].tolist() for a in answers], made.sizes

    return asyncio.run(ask())


def test_requests_of_one_turn_run_together_and_each_gets_its_own_rows():
    answers, sizes = batched(BatchingParameters(), column(1, 2), column(3), column(4, 5, 6))
    assert answers == [[2, 4], [6], [8, 10, 12]]
    assert sizes == [6]


@pytest.mark.parametrize(
    ("parameters", "sizes"),
    [(BatchingParameters(max_batch_size=2, batch_timeout_s=60), [2]), (opportunistic(2), [1, 1])],
)
def test_both_protocols_share_a_batch_where_a_batch_waits_for_others(parameters, sizes):
    async def ask() -> list[int]:
        model = Model()
        batcher = Batcher(parameters, model.call)
        calls = [batcher.run("m", model.signature, column(n), inline_s) for n, inline_s in ((1, 1e-3), (2, 1e-4))]
        answers = await asyncio.wait_for(asyncio.gather(*calls), 5)
        assert [answer[0].tolist() for answer in answers] == [[2], [4]]
        return model.sizes

    assert asyncio.run(ask()) == sizes


def test_requests_that_come_while_a_batch_runs_are_the_next_batch():
    async def scenario():
        model = Model()
        batcher = Batcher(opportunistic(2), model.call)
        model.gate.clear()
        first = asyncio.ensure_future(batcher.run("m", model.signature, column(1)))
        await until(lambda: batcher._running)
        others = [asyncio.ensure_future(batcher.run("m", model.signature, column(n))) for n in range(2, 9)]
        await until(lambda: sum(queue.rows for queue in batcher._queues.values()) == 7)
        assert len(batcher._running) == 1
        model.gate.set()
        answers = await asyncio.gather(first, *others)
        assert [answer[0].tolist() for answer in answers] == [[2 * n] for n in range(1, 9)]
        assert model.sizes == [1, 7]
        await until(lambda: not batcher._queues and not batcher._running)

    asyncio.run(scenario())


def test_shapes_that_the_model_does_not_declare_run_alone():
    async def scenario():
        shapes_run = []

        def double(x):
            shapes_run.append(x.shape)
            return [2 * x]

        model = Model(None, 2)
        model.signature = Signature("s", "", (spec("x", None, 2),), (spec("y", None, 2),), double)
        batcher = Batcher(opportunistic(2), model.call)
        shapes = [(2, 2), (1, 2), (2,), (2,), (), (2, 3)]
        calls = [batcher.run("m", model.signature, [np.ones(shape, np.float32)]) for shape in shapes]
        assert [answer[0].shape for answer in await asyncio.gather(*calls)] == shapes
        assert sorted(shapes_run, key=str) == sorted([(3, 2), (2,), (2,), (), (2, 3)], key=str)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("call_s", "row_s", "sizes"),
    [(0.0, 0.1, [4, 4]), (0.4, 0.1, [4, 4]), (1.0, 0.1, [8]), (1.0, 0.0, [8]), (1e-5, 0.0, [8])],
    ids=["rows cost", "rows cost most", "rows cost too little", "rows cost nothing", "short"],
)
def test_what_waits_shares_the_threads_where_a_batch_is_long_and_its_rows_cost_and_else_runs_as_one(
    call_s, row_s, sizes
):
    async def scenario():
        model = Model()
        for rows in (1, 2, 4, 8):
            model.signature.observed.took(call_s + rows * row_s, size_of(column(*range(rows))))
        batcher = Batcher(opportunistic(2), model.call)
        answers = await asyncio.gather(*[batcher.run("m", model.signature, column(n), 1e-3) for n in range(8)])
        assert [answer[0].tolist() for answer in answers] == [[2 * n] for n in range(8)]
        assert model.sizes == sizes

    asyncio.run(scenario())


@pytest.mark.parametrize(("each", "sizes"), [(1, [8, 8]), (3, [9, 9])])
def test_what_waits_is_not_dealt_out_in_pieces_so_short_that_they_run_on_the_loop(each, sizes):
    async def scenario():
        model = Model()
        for rows in (1, 2, 4, 8, 16):
            model.signature.observed.took(rows if rows >= 8 else 1e-5, size_of(column(*range(rows))))
        batcher = Batcher(opportunistic(4), model.call)
        calls = [column(*[n] * each) for n in range(sum(sizes) // each)]
        answers = await asyncio.gather(*[batcher.run("m", model.signature, arrays, 1e-3) for arrays in calls])
        assert [answer[0].tolist() for answer in answers] == [[2 * n] * each for n in range(len(calls))]
        assert model.sizes == sizes

    asyncio.run(scenario())


def test_a_batch_keeps_to_its_size_and_a_larger_request_runs_alone():
    answers, sizes = batched(BatchingParameters(max_batch_size=4), *[column(n, n) for n in range(5)], column(*range(9)))
    assert answers == [[2 * n, 2 * n] for n in range(5)] + [[2 * n for n in range(9)]]
    assert sorted(sizes) == [2, 4, 4, 9]


def test_rows_of_other_sizes_do_not_meet():
    two, three = np.ones((1, 2), np.float32), np.full((2, 3), 5, np.float32)
    answers, sizes = batched(BatchingParameters(), [two], [three], [two], model=Model(None, None, out=(None, None)))
    assert answers == [[[2, 2]], [[10, 10, 10]] * 2, [[2, 2]]]
    assert sorted(sizes) == [2, 2]


def test_a_batch_is_filled_up_to_an_allowed_size_and_the_filling_is_cut_off():
    parameters = BatchingParameters(max_batch_size=8, allowed_batch_sizes=(2, 8))
    answers, sizes = batched(parameters, column(1), column(2), column(3))
    assert (answers, sizes) == ([[2], [4], [6]], [8])
    answers, sizes = batched(parameters, column(1))
    assert (answers, sizes) == ([[2]], [2])


def test_a_request_that_the_model_refuses_does_not_fail_the_others():
    answers, sizes = batched(BatchingParameters(), column(1), column(float("nan")), column(3))
    assert answers[0] == [2] and answers[2] == [6]
    assert isinstance(answers[1], ServingError) and answers[1].code == Code.INVALID_ARGUMENT
    assert sizes == [3, 1, 1, 1]


def test_a_fault_of_any_kind_is_answered_to_who_met_it():
    model = Model()
    broken = Signature("s", "", model.signature.inputs, model.signature.outputs, lambda x: 1 / 0)
    model.signature = broken
    answers, _ = batched(BatchingParameters(), column(1), column(2), model=model)
    assert [type(answer) for answer in answers] == [ZeroDivisionError] * 2


def test_a_full_queue_refuses_with_unavailable_and_loses_nobody():
    async def scenario():
        model = Model()
        batcher = Batcher(BatchingParameters(max_batch_size=2, max_enqueued_batches=2, num_batch_threads=1), model.call)
        model.gate.clear()
        running = asyncio.ensure_future(batcher.run("m", model.signature, column(0)))
        await until(lambda: batcher._running)
        waiting = [asyncio.ensure_future(batcher.run("m", model.signature, column(n))) for n in range(1, 5)]
        await until(lambda: sum(queue.rows for queue in batcher._queues.values()) == 4)
        with pytest.raises(ServingError, match="queue is full") as refused:
            await batcher.run("m", model.signature, column(9))
        assert refused.value.code == Code.UNAVAILABLE
        model.gate.set()
        answers = await asyncio.gather(running, *waiting)
        assert [answer[0].tolist() for answer in answers] == [[2 * n] for n in range(5)]
        assert (await batcher.run("m", model.signature, column(9)))[0].tolist() == [18]

    asyncio.run(scenario())


def test_a_request_that_is_given_up_takes_no_place_in_a_batch():
    async def scenario():
        model = Model()
        batcher = Batcher(BatchingParameters(num_batch_threads=1), model.call)
        model.gate.clear()
        first = asyncio.ensure_future(batcher.run("m", model.signature, column(1)))
        await until(lambda: batcher._running)
        given_up = asyncio.ensure_future(batcher.run("m", model.signature, column(2)))
        kept = asyncio.ensure_future(batcher.run("m", model.signature, column(3)))
        await until(lambda: sum(queue.rows for queue in batcher._queues.values()) == 2)
        given_up.cancel()
        model.gate.set()
        assert [(await first)[0].tolist(), (await kept)[0].tolist()] == [[2], [6]]
        assert given_up.cancelled() and model.sizes == [1, 1]

    asyncio.run(scenario())


def test_requests_that_are_given_up_beside_a_batch_that_does_not_end_leave_the_queue():
    async def scenario():
        model = Model()
        batcher = Batcher(BatchingParameters(max_batch_size=2, max_enqueued_batches=2, num_batch_threads=1), model.call)
        model.gate.clear()
        running = asyncio.ensure_future(batcher.run("m", model.signature, column(0)))
        await until(lambda: batcher._running)
        given_up = [asyncio.ensure_future(batcher.run("m", model.signature, column(n))) for n in range(4)]
        await until(lambda: sum(queue.rows for queue in batcher._queues.values()) == 4)
        for request in given_up:
            request.cancel()
        await until(lambda: not batcher._queues)
        waiting = [asyncio.ensure_future(batcher.run("m", model.signature, column(n))) for n in range(4)]
        model.gate.set()
        answers = await asyncio.gather(running, *waiting)
        assert [answer[0].tolist() for answer in answers] == [[0], [0], [2], [4], [6]]

    asyncio.run(scenario())


def test_a_timeout_waits_for_others_but_not_for_a_batch_that_is_full():
    async def scenario():
        loop, model = asyncio.get_running_loop(), Model()
        now = loop.time()
        loop.time = lambda: now  # The loop's own clock, which this test moves.
        batcher = Batcher(BatchingParameters(max_batch_size=3, batch_timeout_s=5), model.call)
        first = asyncio.ensure_future(batcher.run("m", model.signature, column(1)))
        await until(lambda: batcher._timer)
        second = asyncio.ensure_future(batcher.run("m", model.signature, column(2)))
        for _ in range(20):
            await asyncio.sleep(0)
        assert model.sizes == []
        third = asyncio.ensure_future(batcher.run("m", model.signature, column(3)))
        await asyncio.gather(first, second, third)
        assert model.sizes == [3]
        late = asyncio.ensure_future(batcher.run("m", model.signature, column(4)))
        await until(lambda: batcher._timer)
        now += 6
        assert (await late)[0].tolist() == [8]
        assert model.sizes == [3, 1]

    asyncio.run(scenario())


def test_signatures_take_turns():
    async def scenario():
        one, other = Model(), Model()
        other.signature = dataclasses.replace(other.signature, load=one.signature.load)
        batcher = Batcher(BatchingParameters(max_batch_size=2, num_batch_threads=1), one.call)
        order = []
        calls = [(one, n) for n in range(4)] + [(other, n) for n in range(2)]

        async def ask(model, n):
            await batcher.run("m", model.signature, column(n))
            order.append(model)

        await asyncio.gather(*[ask(model, n) for model, n in calls])
        assert order == [one, one, other, other, one, one]

    asyncio.run(scenario())
