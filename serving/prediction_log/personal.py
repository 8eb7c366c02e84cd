"""Columns that speak of persons: hashed with a key, or left out, before anything is written.

The hash is keyed, because what is hashed can mostly be guessed: whoever has the list of all tail numbers or addresses
hashes them all and looks each up. With a key that readers of the log do not have, equal values stay equal (so that a
person's rows can be counted, and deleted) and say nothing else. Without the key's file nobody can hash a value again.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from airtight.errors import TerminalError
from serving.prediction_log.settings import LogSettings

KEY_BYTES = 32


@dataclass(frozen=True)
class Personal:
    """What becomes of personal columns.

    Args:
      hashed: Names of the columns that are hashed.
      omitted: Names of those that are left out.
      key: Of the hashes.
    """

    hashed: frozenset[str] = frozenset()
    omitted: frozenset[str] = frozenset()
    key: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, settings: LogSettings) -> Personal:
        """As the settings say, with the key of the file.

        Raises:
          TerminalError: The key cannot be read or made, or others may read it.
        """
        key = read_key(settings.key_file) if settings.hash_columns and settings.key_file else b""
        return cls(settings.hash_columns, settings.omit_columns, key)

    @cached_property
    def _names(self) -> re.Pattern[bytes] | None:
        names = sorted(self.hashed | self.omitted)
        return re.compile(b"|".join(re.escape(name.encode()) for name in names)) if names else None

    def __bool__(self) -> bool:
        """Whether any column is personal."""
        return self._names is not None

    def is_named_in(self, value: bytes) -> bool:
        """Whether the name of a personal column stands anywhere in some bytes."""
        return self._names is not None and self._names.search(value) is not None

    def hashes(self, values: Iterable[Any]) -> list[str | None]:
        """HMAC-SHA-256 of each value's text in UTF-8, hexadecimal; what is missing (None, "", NaN) stays missing."""
        known: dict[Any, str | None] = {}
        hashes = []
        for value in values:
            if value not in known:
                known[value] = self._hash(value)
            hashes.append(known[value])
        return hashes

    def _hash(self, value: Any) -> str | None:
        if value is None or value in ("", b"") or value != value:  # noqa: PLR0124 - NaN alone is unequal to itself.
            return None
        text = value if isinstance(value, bytes) else str(value).encode()
        return hmac.digest(self.key, text, "sha256").hex()


def read_key(path: Path) -> bytes:
    """The key in a file, which is made with this first look; of two processes that make it, both get the same.

    Raises:
      TerminalError: It cannot be read or made, or others than its owner may read it.
    """
    try:
        if not path.exists():
            _make_key(path)
        if path.stat().st_mode & 0o077:
            raise _unusable(path, f"mode {path.stat().st_mode & 0o777:o}")
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from error
    if len(key) != KEY_BYTES:
        raise _unusable(path, f"{len(key)} bytes")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # Fails when another process was first: then its key is the key.
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _unusable(path: Path, received: str) -> TerminalError:
    return TerminalError(
        "The key of the prediction log's hashes cannot be used.",
        expected=f"{KEY_BYTES} bytes in hexadecimal in {path}, which its owner alone may read (mode 600)",
        received=received,
        remedy="Correct the file or its mode. With a new key, new hashes do not equal the old ones.",
    )
