"""JSON, addresses and HTTP itself that nobody should send, from a seed.

The models are those of `models`: `half` (y = x / 2 + 2, also classify and regress) and `mixed` (an input of each kind).
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from random import Random
from typing import Any

ROW = {"pair": [1.0, 2.5], "count": 3, "word": "hé", "flag": True, "exact": 0.1}
EXAMPLES = {"examples": [{"x": 1.0}], "signature_name": "regress_x_to_y"}
SEEDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/models/mixed:predict", {"instances": [ROW, ROW]}),
    ("/v1/models/mixed:predict", {"inputs": {name: [value] for name, value in ROW.items()}}),
    ("/v1/models/half:predict", {"signature_name": "serving_default", "instances": [[1.0], [2.0]]}),
    ("/v1/models/half:regress", EXAMPLES),
    ("/v1/models/half:classify", {**EXAMPLES, "signature_name": "classify_x", "context": {"x": [1.0]}}),
)
"""Requests that are answered, and are the beginning of those that are not."""
ODD_TEXTS = ("", "\x00", "é" * 50, "\ud800", "\u202e", "NaN", "x" * 5000, "../../etc/passwd", "serving_default", "💥")
ODD_NUMBERS = (2**63, -(2**63) - 1, 2**70, 10**400, 1e308, -1e-320, 0.1, -1, 1e39, math.nan, math.inf, -math.inf)
ODD_PATHS = (
    b"/v1/models/../half:predict",
    b"/v1/models/%2e%2e%2fhalf:predict",
    b"/v1/models/%252e%252e:predict",
    b"/v1/models/half%00:predict",
    b"/v1/models/half/versions/99999999999999999999:predict",
    b"/v1/models/half/versions/-1:predict",
    b"/v1/models/half/versions/9223372036854775808:predict",
    b"/v1/models/half/labels/%ff:predict",
    b"/v1/models/half:predict:predict",
    b"/v1/models/" + b"m" * 3000 + b":predict",
    b"/v1/models/half:explode",
    b"/v1/models//:predict",
    b"//v1/models/half:predict",
    b"/v1",
    b"*",
    b"http://elsewhere/v1/models/half:predict",
    b"/v1/models/half:predict?x=%zz#y",
)


def json_case(random: Random) -> tuple[str, bytes]:
    """A path and a body."""
    path, seed = random.choice(SEEDS)
    return path, random.choice(_BODIES)(random, seed)


def _nested(random: Random, seed: Any) -> bytes:
    depth = random.choice((30, 65, 500, 3000, 30_000))
    opened, closed = random.choice((("[", "]"), ('{"instances":', "}"), ('{"b64":', "}")))
    inner = opened * depth + "1" + closed * random.choice((depth, depth - 1, 0))
    return random.choice((inner, f'{{"instances": {inner}}}')).encode()


def _numbered(random: Random, seed: Any) -> bytes:
    numbers = ("1e999999", "-0", "9" * 5000, "1e-999999", "01", "+1", "0x10", ".5", "NaN", "-Infinity", "1E400")
    return _dump(seed).replace(b"1.0", random.choice(numbers).encode())


def _in_base64(random: Random, seed: Any) -> bytes:
    junk = random.choice(("!!!", "YQ", "YQ==YQ==", "\n", "é", base64.b64encode(random.randbytes(20)).decode()))
    return _dump({"instances": [{**ROW, "word": {"b64": junk}}]})


_BODIES: tuple[Callable[[Random, Any], bytes], ...] = (
    lambda random, seed: random.randbytes(random.randrange(200)),
    lambda random, seed: _dump(seed)[: random.randrange(len(_dump(seed)))],
    lambda random, seed: flipped(random, _dump(seed)),
    lambda random, seed: b"{" + _dump(seed)[1:-1] + b", " + _dump(seed)[1:],  # Each key twice.
    lambda random, seed: _dump(seed).decode().encode(random.choice(("utf-16", "utf-8-sig", "utf-32", "cp500"))),
    lambda random, seed: _dump(_spoiled(random, seed)),
    lambda random, seed: _dump(_spoiled(random, _spoiled(random, seed))),
    _nested,
    _numbered,
    _in_base64,
)


def http_case(random: Random) -> bytes:
    """Bytes for a connection: HTTP that lies, or none."""
    path, seed = random.choice(SEEDS)
    return random.choice(_HTTP)(random, b"POST " + path.encode() + b" HTTP/1.1\r\nHost: x\r\n", _dump(seed))


def _size(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def _odd_line(random: Random, head: bytes, body: bytes) -> bytes:
    verbs = (b"POST", b"GET", b"PUT", b"DELETE", b"HEAD", b"CONNECT", b"OPTIONS", b"post", b"P\x00ST", b"PRI")
    versions = (b"1.1", b"1.1", b"1.0", b"0.9", b"2.0", b"9.9", b"x")
    head = head.replace(b"POST", random.choice(verbs), 1).replace(b"1.1", random.choice(versions), 1)
    return head + _size(body) + b"\r\n" + body


def _odd_address(random: Random, head: bytes, body: bytes) -> bytes:
    odd = random.choice((*ODD_PATHS, random.randbytes(30).replace(b"\n", b"")))
    return b"POST " + odd + b" HTTP/1.1\r\nHost: x\r\n" + _size(body) + b"\r\n" + body


def _odd_header(random: Random, head: bytes, body: bytes) -> bytes:
    size, chunked = _size(body), b"Transfer-Encoding: chunked\r\n"
    odd = (
        size + size,
        size + b"Content-Length: 1\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
        b"Content-Length: 0x10\r\n",
        b"Content-Length: %d\r\n" % (len(body) - 3),
        chunked + size,
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        size + b"X: \x00\r\n",
        size + b"No colon\r\n",
        size + b" folded: 1\r\n",
        size + b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        size + b"Expect: 100-continue\r\n",
        size + b"Connection: close\r\n",
        size + b"X-Long: " + b"x" * 70_000 + b"\r\n",
        size + b"\xff\xfe: 1\r\n",
    )
    return head + random.choice(odd) + b"\r\n" + body


def _odd_chunks(random: Random, head: bytes, body: bytes) -> bytes:
    sizes = (b"%x" % len(body), b"-1", b"zz", b"ffffffffffffffff", b"%x;ext=1" % len(body), b"", b"0")
    chunk = random.choice(sizes) + b"\r\n" + body + b"\r\n0\r\n\r\n"
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk


_HTTP: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (
    lambda random, head, body: random.randbytes(random.randrange(1, 400)) + b"\r\n\r\n",
    lambda random, head, body: (head + _size(body) + b"\r\n" + body) * random.randrange(2, 20) + random.randbytes(20),
    lambda random, head, body: flipped(random, head + _size(body) + b"\r\n" + body),
    _odd_line,
    _odd_address,
    _odd_header,
    _odd_chunks,
)


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def flipped(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randrange(1, 6)):
        if changed:
            changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def _odd_value(random: Random, depth: int = 0) -> Any:
    kind = random.randrange(8 if depth < 3 else 4)
    if kind == 0:
        return random.choice((None, True, False, [], {}, [[]], [None]))
    if kind == 1:
        return random.choice(ODD_NUMBERS)
    if kind == 2:
        return random.choice(ODD_TEXTS)
    if kind == 3:
        return {"b64": random.choice((*ODD_TEXTS, 1, None, ["YQ=="]))}
    if kind < 6:
        return [_odd_value(random, depth + 1) for _ in range(random.randrange(4))]
    return {
        random.choice((*ROW, "b64", "x", *ODD_TEXTS)): _odd_value(random, depth + 1) for _ in range(random.randrange(4))
    }


def _spoiled(random: Random, value: Any) -> Any:
    """The same value with something odd in one place."""
    if isinstance(value, dict) and value and random.random() < 0.8:
        name = random.choice(list(value))
        spoiled = {**value, name: _spoiled(random, value[name])}
        if random.random() < 0.2:
            spoiled[random.choice((*ODD_TEXTS, "extra"))] = spoiled.pop(name)
        return spoiled
    if isinstance(value, list) and value and random.random() < 0.8:
        index = random.randrange(len(value))
        return [*value[:index], _spoiled(random, value[index]), *value[index + 1 :]]
    return _odd_value(random)
