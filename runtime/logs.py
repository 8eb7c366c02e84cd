"""How a node speaks: lines `LEVEL logger: message` on standard output, which the operator logs at that level.

A task's log is for people, so what libraries say about themselves is left out here, in one place: `speak` filters the
records of Python's logging in the node's process, `legible` what native code prints past it, in the process that reads.
Neither hides a warning or an error that is not on a list below.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

LINE = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL) ([^\s:]+): (.*)$")
"""A first line of a record; what does not match belongs to the record before it."""

TALKATIVE = {
    "absl": logging.WARNING,
    "tensorflow": logging.WARNING,
    "great_expectations": logging.WARNING,
    "apache_beam": logging.WARNING,
    "py4j": logging.WARNING,
    "urllib3": logging.WARNING,
}
"""Libraries that tell their life, each with the level from which it is heard."""
_INSTALLED = "/site-packages/"
_HARMLESS = re.compile(
    # TFX warns of both for each node of each pipeline; neither is used here.
    r"metadata_connection_config is not provided by IR\.$|ArtifactQuery\.property_predicate is not supported\.$"
    # TFMA reads every SavedModel in this way first; Keras 3 writes no such file.
    r"|SavedModel saved prior to TF 2\.5 detected"
    # A library's use of another one's old parts: nothing that a person here can do about.
    r"|From \S*/site-packages/.* is deprecated and will be removed"
    r"|\S*/site-packages/\S+: (Pending)?(Deprecation|Future)Warning: "
    # A slice without rows of one class has no ROC AUC; TFMA computes it all the same and writes NaN.
    r"|\S*/site-packages/tensorflow_model_analysis/\S+: RuntimeWarning: "
)
_NATIVE = re.compile(
    r"^(?:([IWEF])\d{4} \d\d:\d\d:[\d.]+ +\d+ |\d{4}-\d\d-\d\d \d\d:\d\d:[\d.]+: ([IWEF]) )([\w./-]+):\d+\] (.*)$"
)
"""A line of absl's or glog's, or of TensorFlow's own C++ logging: level, file and message."""
_LEVELS = {"W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
_HARMLESS_NATIVE = re.compile(
    r"^WARNING: (All log messages before absl::InitializeLog\(\) is called are|Logging before InitGoogleLogging\(\) is)"
    r" written to STDERR$|^To enable the following instructions: .*, in other operations, rebuild TensorFlow with"
    # Spark, as it starts in the node's process.
    r"|^WARNING: Using incubator modules: jdk\.incubator\.vector$"
    r'|^(Setting (default|Spark) log level to "\w+"\.$|To adjust logging level use sc\.setLogLevel)'
)
_NO_FAULT = re.compile(r"oneDNN supports \w+ only on .* Falling back to the default")
"""What native code calls an error though it goes on in another way."""
_NO_GPU = re.compile(r"failed call to cuInit|[Cc]ould not find cuda drivers|Unable to register cu\w+ (factory|plugin)")
"""What TensorFlow says where there is no GPU. Where there is one, it is a fault."""


def speak(level: int = logging.INFO) -> None:
    """Makes this process log in lines that the client can read back.

    Libraries that tell their life (TFX prints whole protos at INFO) are heard from WARNING on.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_concerns_people)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)
    for name, least in TALKATIVE.items():
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(least)


def legible(lines: Iterable[str]) -> Iterator[str]:
    """Yields a node's lines without what native libraries say of themselves.

    Args:
      lines: What the node's process prints.

    Yields:
      The lines; a warning or an error of native code as a record of its own, under the name "native".
    """
    has_gpu = Path("/dev/nvidiactl").exists()
    for line in lines:
        native = _NATIVE.match(line)
        if native is None:
            if not _HARMLESS_NATIVE.match(line):
                yield line
            continue
        short, long, file, message = native.groups()
        level = _LEVELS.get(short or long)
        if level and not _NO_FAULT.search(message) and (has_gpu or not _NO_GPU.search(message)):
            yield f"{level} native.{Path(file).stem}: {message}"


def _concerns_people(record: logging.LogRecord) -> bool:
    """Returns whether a record is more than a library's account of itself.

    Some libraries (Beam, TFX) log their progress through the root logger, which is also a user's plain logging.info().
    """
    if record.name == "root" and record.levelno < logging.WARNING and _INSTALLED in record.pathname:
        return False
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - whatever the caller's own objects raise
        return True  # A call whose arguments do not fit; logging tells of it, and the caller goes on.
    return not _HARMLESS.match(message)
