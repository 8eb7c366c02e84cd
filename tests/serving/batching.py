"""What the tests of batching share: a model in Python that can be held, and a file of parameters."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import tensorflow as tf

from serving.errors import invalid
from serving.signature import Signature, TensorSpec


def spec(name: str, *shape: int | None, dtype: tf.DType = tf.float32) -> TensorSpec:
    return TensorSpec(name, f"{name}:0", dtype, np.dtype(dtype.as_numpy_dtype), shape)


class Model:
    """A model in Python, y = 2 x, that writes down the sizes of its batches and can be held."""

    def __init__(self, *shape: int | None, out: tuple[int | None, ...] = (None,)) -> None:
        self.sizes: list[int] = []
        self.signature = Signature("s", "", (spec("x", *(shape or (None,))),), (spec("y", *out),), self.run)
        self.gate = asyncio.Event()
        self.gate.set()

    def run(self, x):
        self.sizes.append(len(x))
        if np.isnan(x).any():
            raise invalid("a number is missing")
        return [2 * x]

    async def call(self, model: str, signature: Signature, arrays, inline_s: float):
        await self.gate.wait()
        return signature.run(*arrays)


def column(*numbers: float) -> list[np.ndarray]:
    return [np.array(numbers, np.float32)]


def written(folder: Path, text: str) -> Path:
    file = folder / "batching.config"
    file.write_text(text)
    return file
