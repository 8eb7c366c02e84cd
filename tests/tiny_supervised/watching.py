"""The policy and the notifier of the watched pipeline."""

import json
import os
from pathlib import Path

from airtight.watch.policies import Decision


def every_second_day(history):
    """Retrains after each second compared day."""
    retrains = history.now > 0 and history.now % 2 == 0
    return Decision("retrain" if retrains else "keep", f"{history.now} days are known", 7)


def NOTIFIER(context):
    """Adds a line to the file $NOTES."""
    if "NOTES" in os.environ:
        with Path(os.environ["NOTES"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(context["watch"]) + "\n")
