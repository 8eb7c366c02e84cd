"""A Java class file in which one static call is exchanged for another, for a server that does not listen where told."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from airtight.errors import TerminalError

UTF8, LONG, DOUBLE, METHOD, NAME_AND_TYPE = 1, 5, 6, 10, 12
SIZES = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 17: 4, 18: 4, 19: 2, 20: 2}
"""Bytes of a constant after its tag (JVM specification, 4.4); that of a text depends on the text."""
POOL = 10
"""Where the constants begin: after magic, versions and their count."""
NOTHING, CALL, CALL_STATIC = b"\0", b"\xb6", b"\xb8"


@dataclass
class ClassFile:
    """A class file's constants and what follows them.

    Args:
      head: Magic and versions.
      constants: Tag and bytes of each, the first at 1; the place after a long or double is None.
      rest: Everything else, code included.
    """

    head: bytes
    constants: list[tuple[int, bytes] | None] = field(default_factory=lambda: [None])
    rest: bytes = b""

    @classmethod
    def read(cls, code: bytes) -> ClassFile:
        """Takes the file apart."""
        class_file, at = cls(code[: POOL - 2]), POOL
        (count,) = struct.unpack_from(">H", code, POOL - 2)
        while len(class_file.constants) < count:
            tag = code[at]
            size = 2 + struct.unpack_from(">H", code, at + 1)[0] if tag == UTF8 else SIZES[tag]
            class_file.constants.append((tag, code[at + 1 : at + 1 + size]))
            class_file.constants += [None] if tag in (LONG, DOUBLE) else []
            at += 1 + size
        class_file.rest = code[at:]
        return class_file

    def write(self) -> bytes:
        """The file again."""
        encoded = b"".join(bytes([constant[0]]) + constant[1] for constant in self.constants if constant)
        return self.head + struct.pack(">H", len(self.constants)) + encoded + self.rest

    def text(self, index: int) -> str:
        """A text among the constants."""
        each = self.constants[index]
        return each[1][2:].decode() if each and each[0] == UTF8 else ""

    def add(self, tag: int, content: bytes) -> int:
        """Adds a constant and gives its index."""
        self.constants.append((tag, content))
        return len(self.constants) - 1

    def method(self, name: str) -> int:
        """The index of a method that the class calls, `package/Class.method`; 0 for none, or more than one."""
        indexes = [
            index
            for index, constant in enumerate(self.constants)
            if constant and constant[0] == METHOD and self._named(constant[1]) == name
        ]
        return indexes[0] if len(indexes) == 1 else 0

    def _named(self, method: bytes) -> str:
        """A method's class and name: both are constants that point to texts."""
        owner, signature = (self.constants[index] for index in struct.unpack(">HH", method))
        assert owner and signature
        return ".".join(self.text(struct.unpack_from(">H", content)[0]) for _, content in (owner, signature))


def call_with_the_whole(code: bytes, part: str, static: str, other: str, signature: str) -> bytes:
    """Exchanges `static(x.part())` for `other(x)`.

    Args:
      code: The class file.
      part: The method without arguments whose result is handed over now, `package/Class.method`.
      static: The static method that is called with it, likewise.
      other: Name of the static method of that class that shall be called.
      signature: That method's, as class files write it.

    Returns:
      The class file with the other call.

    Raises:
      TerminalError: It does not hold that call exactly once.
    """
    file = ClassFile.read(code)
    getter, method = file.method(part), file.method(static)
    call = CALL + struct.pack(">H", getter) + CALL_STATIC + struct.pack(">H", method)
    if not (getter and method) or file.rest.count(call) != 1:
        raise TerminalError(
            f"A Java class is not the one in which {static} can be exchanged for {other}.",
            expected=f"the call {static}(x.{part}()), once",
            received=f"{file.rest.count(call) if getter and method else 0} such calls in {len(code)} bytes",
            remedy="The library's version was changed: see whether the exchange is still needed (services/flink.py).",
        )
    held = file.constants[method]
    assert held
    named = [file.add(UTF8, struct.pack(">H", len(text)) + text.encode()) for text in (other, signature)]
    name_and_type = file.add(NAME_AND_TYPE, struct.pack(">HH", *named))
    # The class stays, its method is another one.
    file.constants[method] = (METHOD, held[1][:2] + struct.pack(">H", name_and_type))
    file.rest = file.rest.replace(call, NOTHING * 3 + CALL_STATIC + struct.pack(">H", method))
    return file.write()
