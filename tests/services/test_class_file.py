from __future__ import annotations

import struct
import zipfile

import pytest

from airtight.errors import TerminalError
from services import jars
from services.class_file import METHOD, NAME_AND_TYPE, UTF8, ClassFile, call_with_the_whole

CLASS = 7


def text(file: ClassFile, content: str) -> int:
    return file.add(UTF8, struct.pack(">H", len(content)) + content.encode())


def method(file: ClassFile, owner: str, name: str, signature: str) -> int:
    held = file.add(CLASS, struct.pack(">H", text(file, owner)))
    named = file.add(NAME_AND_TYPE, struct.pack(">HH", text(file, name), text(file, signature)))
    return file.add(METHOD, struct.pack(">HH", held, named))


def calling(times: int = 1) -> bytes:
    """`Server.open(address.port())`, so many times, among the constants of a long and two methods of one name."""
    file = ClassFile(b"\xca\xfe\xba\xbe\0\0\0\x34")
    file.constants += [(5, bytes(8)), None]
    port = method(file, "Address", "port", "()I")
    method(file, "Other", "port", "()I")
    static = method(file, "Server", "open", "(I)LServer;")
    file.rest = b"before" + (b"\xb6" + struct.pack(">H", port) + b"\xb8" + struct.pack(">H", static)) * times + b"after"
    return file.write()


def test_one_call_is_exchanged_and_nothing_else() -> None:
    before = ClassFile.read(calling())
    after = ClassFile.read(
        call_with_the_whole(calling(), "Address.port", "Server.open", "listen", "(LAddress;)LServer;")
    )
    static = after.method("Server.listen")
    assert static == before.method("Server.open")
    assert after.method("Server.open") == 0
    assert after.rest == b"before" + bytes(3) + b"\xb8" + struct.pack(">H", static) + b"after"
    kept = [each for index, each in enumerate(before.constants) if index != static]
    assert [each for index, each in enumerate(after.constants[: len(before.constants)]) if index != static] == kept
    _, named = struct.unpack(">HH", after.constants[static][1])
    assert after.text(struct.unpack(">HH", after.constants[named][1])[1]) == "(LAddress;)LServer;"


@pytest.mark.parametrize("code", [calling(0), calling(2)])
def test_a_class_without_exactly_that_call_is_refused(code: bytes) -> None:
    with pytest.raises(TerminalError, match="is not the one"):
        call_with_the_whole(code, "Address.port", "Server.open", "listen", "(LAddress;)LServer;")


def test_a_class_that_calls_another_method_is_refused() -> None:
    with pytest.raises(TerminalError, match="is not the one"):
        call_with_the_whole(calling(), "Address.port", "Server.start", "listen", "(LAddress;)LServer;")


def test_real_classes_come_out_as_they_went_in() -> None:
    with zipfile.ZipFile(jars._ivy()) as jar:
        classes = [jar.read(name) for name in jar.namelist() if name.endswith(".class")]
    assert len(classes) > 500
    assert [code for code in classes if ClassFile.read(code).write() != code] == []
