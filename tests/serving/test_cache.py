"""The prediction cache: what is kept, for how long, and that no version answers for another."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest
import tensorflow as tf

from serving import batching, inference, metrics
from serving.batching_parameters import BatchingParameters
from serving.errors import invalid
from serving.inference import Runner
from serving.prediction_cache import ENTRY_BYTES, PredictionCache, copies_of, key_of
from serving.signature import Signature, TensorSpec, size_of


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def signature(run, dtype: tf.DType = tf.float32, *, inputs: str = "x") -> Signature:
    kind = np.dtype(dtype.as_numpy_dtype)
    specs = tuple(TensorSpec(name, f"{name}:0", dtype, kind, (None,)) for name in inputs)
    return Signature("s", "", specs, (TensorSpec("y", "y:0", dtype, kind, (None,)),), run)


class Doubling:
    """y = factor x, and how often it was called."""

    def __init__(self, factor: float = 2.0) -> None:
        self.calls = 0
        self.factor = factor
        self.signature = signature(self.run)

    def run(self, x):
        self.calls += 1
        if np.isnan(x).any():
            raise invalid("a number is missing")
        return [self.factor * x]


def column(*numbers: float) -> list[np.ndarray]:
    return [np.array(numbers, np.float32)]


def ask(runner: Runner, model: Doubling, *numbers: float, name: str = "m") -> list[float]:
    return asyncio.run(runner.run(name, model.signature, column(*numbers)))[0].tolist()


def test_an_answer_is_kept_and_counted():
    model, runner = Doubling(), Runner(1, cache=PredictionCache(10, 1 << 20))
    assert [ask(runner, model, 1, 2, name="counted") for _ in range(3)] == [[2, 4]] * 3
    assert ask(runner, model, 2, 1, name="counted") == [4, 2]
    assert model.calls == 2
    assert metrics.CACHE_HITS._sums["counted",] == 2
    assert metrics.CACHE_MISSES._sums["counted",] == 2


def test_a_refusal_is_not_kept():
    model, cache = Doubling(), PredictionCache(10, 1 << 20)
    runner = Runner(1, cache=cache)
    for _ in range(2):
        with pytest.raises(Exception, match="a number is missing"):
            ask(runner, model, float("nan"))
    assert model.calls == 2 and not len(cache)


def test_an_answer_ends_with_its_time():
    clock = Clock()
    model, cache = Doubling(), PredictionCache(10, 1 << 20, ttl_s=5.0, clock=clock)
    runner = Runner(1, cache=cache)
    ask(runner, model, 1)
    clock.now = 4.9
    ask(runner, model, 1)  # A hit does not make it last longer.
    assert model.calls == 1
    clock.now = 5.0
    ask(runner, model, 1)
    assert model.calls == 2 and len(cache) == 1
    clock.now = 9.9
    ask(runner, model, 1)
    assert model.calls == 2


def test_the_least_recently_used_goes_first():
    model, cache = Doubling(), PredictionCache(2, 1 << 20)
    runner = Runner(1, cache=cache)
    for number in (1, 2, 1, 3):  # 2 was used longest ago.
        ask(runner, model, number)
    assert model.calls == 3 and len(cache) == 2
    ask(runner, model, 1)
    ask(runner, model, 3)
    assert model.calls == 3
    ask(runner, model, 2)
    assert model.calls == 4


def test_the_bytes_are_bounded_and_a_large_answer_puts_nobody_out():
    def put(key: bytes, *answer: np.ndarray) -> None:
        if cache.takes(size_of(answer)):
            cache.put(key, copies_of(answer), size_of(answer))

    size = ENTRY_BYTES + 4000
    cache = PredictionCache(1000, 10 * size)
    for number in range(30):
        put(bytes([number]), np.zeros(1000, np.float32))
        assert cache.size <= 10 * size
    assert len(cache) == 10 and cache.size == 10 * size
    put(b"large", np.zeros(2500, np.float32))
    assert len(cache) == 10 and cache.get(b"large", "m") is None
    put(b"texts", np.array([b"x" * 1000] * 3, object))
    assert cache.size == 9 * size + ENTRY_BYTES + 3 * 8 + 3000
    put(b"texts", np.zeros(1, np.float32))  # Replaced, not counted twice.
    assert cache.size == 9 * size + ENTRY_BYTES + 4


def test_a_kept_answer_is_a_copy_that_nobody_changes():
    batch = np.arange(100, dtype=np.float32)
    cache = PredictionCache(10, 1 << 20)
    cache.put(b"k", copies_of([batch[10:12]]), 8)
    batch[:] = 0
    kept = cache.get(b"k", "m")
    assert kept is not None and kept[0].tolist() == [10, 11] and kept[0].base is None
    with pytest.raises(ValueError, match="read-only"):
        kept[0][0] = 1


def test_another_version_of_the_same_signature_does_not_answer_from_the_cache():
    old, new, runner = Doubling(2.0), Doubling(3.0), Runner(1, cache=PredictionCache(10, 1 << 20))
    assert (ask(runner, old, 1), ask(runner, new, 1), ask(runner, old, 1)) == ([2], [3], [2])
    assert (old.calls, new.calls) == (1, 1)


def test_a_key_tells_apart_whatever_is_asked_otherwise():
    one, other = signature(None), signature(None)
    words, pairs = signature(None, tf.string), signature(None, inputs="xz")

    def texts(*values: bytes) -> list[np.ndarray]:
        return [np.array(values, object)]

    keys = [
        key_of(one, column(1, 2)),
        key_of(other, column(1, 2)),
        key_of(one, column(2, 1)),
        key_of(one, column(1, 2, 0)),
        key_of(one, [column(1, 2)[0].reshape(2, 1)]),
        key_of(one, [column(1, 2)[0].reshape(1, 2)]),
        key_of(one, column()),
        key_of(pairs, [*column(1, 2), *column(3, 4)]),
        key_of(pairs, [*column(3, 4), *column(1, 2)]),
        key_of(words, texts(b"ab", b"c")),
        key_of(words, texts(b"a", b"bc")),
        key_of(words, texts(b"abc", b"")),
        key_of(words, texts(b"abc")),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(one, [np.array([[1, 9], [2, 9]], np.float32)[:, 0]]) == keys[0]  # However it lies in memory.
    half = signature(None, tf.bfloat16)
    assert key_of(half, [np.zeros(2, half.inputs[0].numpy)]) == key_of(half, [np.zeros(2, half.inputs[0].numpy)])
    scalar = np.array(1, np.float32)
    assert key_of(one, [scalar]) == key_of(one, [scalar.copy()]) != key_of(one, column(1))


def test_what_is_large_is_hashed_and_copied_beside_the_event_loop_and_joined_too(monkeypatch):
    threads: dict[str, set[int]] = {}

    def watched(module, name: str) -> None:
        function = getattr(module, name)

        def watching(*given):
            threads.setdefault(name, set()).add(threading.get_ident())
            return function(*given)

        monkeypatch.setattr(module, name, watching)

    for module, name in ((inference, "key_of"), (inference, "copies_of"), (batching, "_joined")):
        watched(module, name)
    model = Doubling()

    async def ask_together(rows: int) -> None:
        parameters = BatchingParameters(max_batch_size=2 * rows, batch_timeout_s=60.0)
        runner = Runner(2, parameters, PredictionCache(10, 1 << 30))
        arrays = column(*range(rows))
        for answer in await asyncio.gather(*[runner.run("m", model.signature, arrays) for _ in range(2)]):
            assert (answer[0] == 2 * arrays[0]).all()

    asyncio.run(ask_together(2))
    assert set.union(*threads.values()) == {threading.get_ident()} and len(threads) == 3
    threads.clear()
    asyncio.run(ask_together(inference.LARGE_BYTES))
    assert threading.get_ident() not in set.union(*threads.values()) and len(threads) == 3
