"""How a node speaks: lines `LEVEL logger: message` on standard output, which the operator logs at that level."""

from __future__ import annotations

import logging
import re
import sys

LINE = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL) ([^\s:]+): (.*)$")
"""A first line of a record; what does not match belongs to the record before it."""

_TALKATIVE = {
    "absl": logging.WARNING,
    "tensorflow": logging.WARNING,
    "great_expectations": logging.WARNING,
    "apache_beam": logging.WARNING,
    "py4j": logging.WARNING,
    "urllib3": logging.WARNING,
}


_HARMLESS = ("metadata_connection_config is not provided by IR.", "ArtifactQuery.property_predicate is not supported.")


def speak(level: int = logging.INFO) -> None:
    """Makes this process log in lines that the client can read back.

    Libraries that tell their life (TFX prints whole protos at INFO) are heard from WARNING on.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    # TFX warns of both for each node of each pipeline; neither is used here.
    handler.addFilter(lambda record: record.getMessage() not in _HARMLESS)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name, least in _TALKATIVE.items():
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(least)
