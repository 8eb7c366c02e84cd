"""Three steps and what can go wrong in them, on request."""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact

from airtight.errors import TerminalError, TransientError

log = logging.getLogger(__name__)


class Words(artifact.Artifact):
    """A folder with `words.txt`."""

    TYPE_NAME = "Words"
    PROPERTIES = {  # noqa: RUF012 - TFX reads it so
        "interval_start": artifact.Property(type=artifact.PropertyType.STRING),
        "interval_end": artifact.Property(type=artifact.PropertyType.STRING),
        "count": artifact.Property(type=artifact.PropertyType.INT),
    }


@component
def write(
    words: OutputArtifact[Words],
    interval_start: Parameter[str],
    interval_end: Parameter[str],
    text: Parameter[str],
    repeat: Parameter[int],
) -> None:
    """Writes the text, as often as asked."""
    folder = Path(words.uri)
    (folder / "words.txt").write_text(" ".join([text] * repeat), encoding="utf-8")
    words.interval_start, words.interval_end, words.count = interval_start, interval_end, repeat
    log.info("Wrote %d words.", repeat)


@component
def break_on_request(words: InputArtifact[Words], copied: OutputArtifact[Words], trouble: Parameter[str]) -> None:
    """Copies the words, or fails in the way that `trouble` names."""
    out = Path(copied.uri)
    (out / "half.txt").write_text("half-written", encoding="utf-8")
    log.warning("Trouble asked for: %s\nand a second line", trouble)
    if trouble == "terminal":
        raise TerminalError("The words are wrong.", expected="good words", received=["a", "b"], remedy="Write others.")
    if trouble == "transient":
        raise TransientError("The words are not there yet.", remedy="Wait.")
    if trouble.startswith("once:") and not Path(trouble.partition(":")[2]).exists():
        Path(trouble.partition(":")[2]).touch()
        raise TransientError("Not this time.", remedy="Try again.")
    if trouble.startswith("long_once:") and not Path(trouble.partition(":")[2]).exists():
        Path(trouble.partition(":")[2]).write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(600)
    if trouble.startswith("wait:"):
        _, started, *go_on = trouble.split(":")
        Path(started).write_text(str(os.getpid()), encoding="utf-8")
        while not (Path(*go_on) if go_on else Path(started).with_suffix(".go")).exists():
            time.sleep(0.05)
    if trouble == "exception":
        raise ValueError("no error of ours")
    if trouble.startswith("litter:"):
        Path(trouble.partition(":")[2]).write_text(tempfile.mkstemp()[1], encoding="utf-8")
    if trouble.startswith("environment:"):
        Path(trouble.partition(":")[2]).write_text(json.dumps(dict(os.environ)), encoding="utf-8")
    if trouble == "kill" or trouble.startswith("litter:"):
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble.startswith("sleep:"):
        # A child of the node: it must not outlive it.
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(trouble.partition(":")[2]).write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
        time.sleep(600)
    (out / "half.txt").rename(out / "words.txt")
    (out / "words.txt").write_bytes((Path(words.uri) / "words.txt").read_bytes())


@component
def count(words: InputArtifact[Words]) -> None:
    """Counts the words."""
    text = (Path(words.uri) / "words.txt").read_text(encoding="utf-8")
    log.info("Counted %d words.", len(text.split()))
