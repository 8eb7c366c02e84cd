"""`python -m serving.router`: one address in front of several model servers. See docs/releases.md."""

from __future__ import annotations

import logging
import sys


def main() -> int:
    """Routes until it is told to stop; the exit status tells a fault's family as `airtight.errors` numbers them."""
    import uvloop

    from airtight.errors import AirtightError
    from serving.router.config import settings_from_flags
    from serving.router.server import route

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        uvloop.run(route(settings_from_flags(sys.argv[1:])))
    except AirtightError as error:
        logging.getLogger("serving.router").error("%s", error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
