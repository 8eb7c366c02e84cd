"""Base64 as TensorFlow Serving reads it, which is Abseil's way: white space anywhere, and padding or none."""

from __future__ import annotations

import binascii

_WHITE_SPACE = b" \t\n\v\f\r"
_PADDING = {0: (0,), 2: (0, 2), 3: (0, 1)}
"""By the characters in the last group of four: how many pads may follow."""


def decode(text: str) -> bytes:
    """Decodes standard Base64; a dot pads as well as an equals sign, and the last character's unused bits are ignored.

    Raises:
      ValueError: It has other characters (web-safe ones among them), or a wrong number of characters or pads.
    """
    compact = text.encode("ascii").translate(None, _WHITE_SPACE)
    digits = compact.rstrip(b"=.")
    if len(compact) - len(digits) not in _PADDING.get(len(digits) % 4, ()):
        raise ValueError("a wrong number of characters")
    return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4), strict_mode=True)
