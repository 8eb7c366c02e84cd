"""Keys of the engine's state lie evenly on its slots."""

from __future__ import annotations

from collections import Counter

import pytest

from streaming.windows.mirrored_log import shared_key
from streaming.windows.totals import PARTS
from streaming.windows.versions import BUCKETS

KEY_GROUPS = 128
"""Of a job of Flink with few slots."""


def signed(number: int) -> int:
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >> 31 else number


def rotated(number: int, bits: int) -> int:
    return signed((number & 0xFFFFFFFF) << bits | (number & 0xFFFFFFFF) >> (32 - bits))


def key_group(key: str) -> int:
    """Flink's `KeyGroupRangeAssignment`, of the key as Beam encodes it: its length, and its bytes."""
    code = 1
    for byte in reversed(bytes([len(key)]) + key.encode()):
        code = signed(31 * code + byte)  # ByteBuffer.hashCode
    code = signed(rotated(signed(code * 0xCC9E2D51), 15) * 0x1B873593)  # MathUtils.murmurHash
    code = (signed(rotated(code, 13) * 5 + 0xE6546B64) ^ 4) & 0xFFFFFFFF
    code = (code ^ code >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    code = (code ^ code >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return abs(signed(code ^ code >> 16)) % KEY_GROUPS


@pytest.mark.parametrize("keys", [PARTS, BUCKETS])
@pytest.mark.parametrize("slots", [1, 2, 4, 8])
def test_keys_lie_evenly_on_slots(keys: int, slots: int) -> None:
    names = {shared_key(str(number), keys) for number in range(1_000)}
    assert len(names) == keys
    held = Counter(key_group(name) * slots // KEY_GROUPS for name in names)
    assert held == {slot: keys // slots for slot in range(slots)}
