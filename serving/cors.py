"""Cross-origin requests of browsers, as TensorFlow Serving answers them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from serving.errors import Code, ServingError

HEADERS: list[tuple[bytes, bytes]] = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]
"""What each answer carries with `--rest_api_enable_cors_support`."""
_ORIGIN = re.compile(rb"https?://")


def check_preflight(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Looks at a browser's question whether it may ask (OPTIONS).

    Raises:
      ServingError: FAILED_PRECONDITION, it is no browser's.
    """
    if not any(name == b"origin" and _ORIGIN.search(value) for name, value in headers):
        raise ServingError(Code.FAILED_PRECONDITION, "Origin header is missing in CORS preflight")
