"""Bodies that are unpacked: what comes of them, and what that costs."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from random import Random

import pytest

from serving import bodies
from serving.bodies import unpacked
from serving.errors import Code, ServingError

RANDOM = Random(1).randbytes(6 << 20)


def unpack(body: bytes) -> bytes:
    return asyncio.run(unpacked(body, b"gzip", lambda size, whole: None))


@pytest.mark.parametrize(
    "members",
    [
        [b""],
        [b"a"],
        [RANDOM],
        [bytes(9 << 20)],
        [b"a", b"", RANDOM[: 1 << 17], bytes(1 << 21), b"b"],
        [b"short"] * 5000,
    ],
    ids=["nothing", "one byte", "random", "zeros", "several", "many"],
)
def test_all_members_are_unpacked(members):
    packed = [gzip.compress(member, 1) for member in members]
    assert unpack(b"".join(packed)) == b"".join(members)
    for damaged in (b"".join(packed)[:-1], b"".join(packed) + b"x"):
        with pytest.raises(ServingError) as refused:
            unpack(damaged)
        assert refused.value.code is Code.INVALID_ARGUMENT


def test_what_is_unpacked_is_read_about_once(monkeypatch):
    read: list[int] = []
    make = zlib.decompressobj

    class Counting:
        def __init__(self, wbits: int) -> None:
            self.stream = make(wbits)

        def decompress(self, given: bytes, most: int) -> bytes:
            read.append(len(given))
            return self.stream.decompress(given, most)

        def __getattr__(self, name: str) -> object:
            return getattr(self.stream, name)

    monkeypatch.setattr(bodies.zlib, "decompressobj", Counting)
    packed = gzip.compress(RANDOM, 1)
    assert unpack(packed) == RANDOM
    assert sum(read) < 2 * len(packed)
