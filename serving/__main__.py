"""`python -m serving`: the model server, with TensorFlow Serving's flags. See docs/serving.md."""

from __future__ import annotations

import logging
import os
import sys
import threading

# Set before TensorFlow is imported: its start-up messages speak of GPUs that a CPU server does not look for.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


def main() -> int:
    """Serves until it is told to stop; the exit status tells a fault's family as `airtight.errors` numbers them."""
    import uvloop

    from airtight.errors import AirtightError
    from serving.config import settings_from_flags
    from serving.server import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("tensorflow", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        uvloop.run(serve(settings_from_flags(sys.argv[1:])))
    except AirtightError as error:
        logging.getLogger("serving").error("%s", error)
        return error.exit_status
    return 0


def end(status: int) -> None:
    """Ends the process, also while a load or a call that never ends still runs in a thread."""
    if threading.active_count() > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    end(main())
