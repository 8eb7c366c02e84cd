"""The process that parses large JSON bodies for the server; see `serving.large_json`. It does not import TensorFlow.

It reads questions from standard input and answers them on standard output, until the input ends. A message is one byte
for its kind, eight for its length, and that many more. Nothing but JSON and the plain bytes of arrays is exchanged.
"""

from __future__ import annotations

import contextlib
import gc
import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 and its kin by it.
import numpy as np

from serving import examples_json, tensors_json
from serving.errors import Code, ServingError, invalid

BODY, TENSORS, EXAMPLES, DROP = b"B", b"T", b"E", b"D"
"""Questions: parse this body; make tensors of it, or serialized tf.Examples. Nobody wants it any more: that one has no
answer."""
TOLD, DATA = b"t", b"d"
"""Each answer is one of both: what there is to tell, as JSON, and the bytes of arrays."""


def read_message(stream: IO[bytes]) -> tuple[bytes, bytes]:
    """The next message: its kind and its payload.

    Raises:
      EOFError: The stream ended before it was whole.
    """
    kind, size = stream.read(1), stream.read(8)
    payload = stream.read(int.from_bytes(size, "little")) if len(size) == 8 else b""  # noqa: PLR2004
    if len(size) != 8 or len(payload) != int.from_bytes(size, "little"):  # noqa: PLR2004
        raise EOFError
    return kind, payload


def write_message(stream: IO[bytes], kind: bytes, *parts: bytes) -> None:
    """Sends a message whose payload is the parts, one after the other."""
    stream.write(kind + sum(map(len, parts)).to_bytes(8, "little"))
    for part in parts:
        stream.write(part)
    stream.flush()


def main() -> None:
    """Answers until standard input ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # Requests that the server still answers may need it.
    with contextlib.suppress(OSError):
        # Where memory is short, the kernel is to end this process and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    gc.disable()  # Documents hold no cycles, and looking for some in millions of objects takes long.
    document: dict[str, Any] = {}
    while True:
        try:
            kind, payload = read_message(sys.stdin.buffer)
        except EOFError:
            return
        description: dict[str, Any]
        parts: list[bytes] = []
        try:
            if kind == DROP:
                document = {}
                continue
            if kind == BODY:
                document = tensors_json.parse(payload)
                description = {"signature_name": _signature_name(document)}
            elif kind == EXAMPLES:
                description, parts = _examples(document, payload.decode())
            else:
                description, parts = _tensors(document, json.loads(payload))
        except ServingError as error:
            description = {"error": error.message, "code": error.code.value[0]}
        except MemoryError:
            description = {"error": "Not enough memory for the request", "code": Code.RESOURCE_EXHAUSTED.value[0]}
        write_message(sys.stdout.buffer, TOLD, json.dumps(description).encode())
        write_message(sys.stdout.buffer, DATA, *parts)
        del payload, parts  # They may be gigabytes, and the next question may be long in coming.


def _signature_name(document: dict[str, Any]) -> str:
    name = document.get("signature_name", "")
    if type(name) is not str:
        raise invalid("'signature_name' key must be a string value.")
    return name


def _tensors(document: dict[str, Any], wanted: list[dict[str, str]]) -> tuple[dict[str, Any], list[bytes]]:
    signature: Any = SimpleNamespace(inputs=[_Spec(**spec) for spec in wanted])
    arrays, rows = tensors_json.decode(document, signature)
    parts = [_bytes(array) for array in arrays]
    return {"rows": rows, "shapes": [array.shape for array in arrays], "sizes": [len(part) for part in parts]}, parts


def _examples(document: dict[str, Any], verb: str) -> tuple[dict[str, Any], list[bytes]]:
    examples = examples_json.serialized_examples(document, verb)
    return {"count": len(examples)}, [_of_texts(examples)]


class _Spec:
    """What `tensors_json.decode` asks of an input, without TensorFlow."""

    def __init__(self, name: str, numpy: str, type: str) -> None:
        self.name, self.numpy, self.dtype = name, np.dtype(numpy), SimpleNamespace(name=type)
        self.text = self.numpy.kind == "O"


def _bytes(array: np.ndarray) -> bytes:
    if array.dtype.kind != "O":
        return array.tobytes()
    return _of_texts(array.ravel().tolist())


def _of_texts(texts: list[bytes]) -> bytes:
    return np.array(list(map(len, texts)), np.int64).tobytes() + b"".join(texts)


if __name__ == "__main__":
    main()
