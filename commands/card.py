"""Writes the model card of a version: what it learned from, how it was judged, who had it served, how it did since.

    python -m commands.card --pipeline NAME latest
    python -m commands.card --pipeline NAME 201307010400001

HTML for people and JSON for programs, under `reports/NAME/cards/` of the state folder. The same metadata, files and
audit log give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from airtight.files import write_text
from airtight.home import Home
from airtight.supervised import Supervised
from commands import arguments
from commands.card_contents import LATEST, contents
from components.reports.model_card import page


def write(settings: Supervised, home: Home, wanted: str = LATEST) -> tuple[Path, Path]:
    """Writes the card of a version.

    Args:
      settings: The pipeline's.
      home: The state folder.
      wanted: The version, or `latest` for the highest that was pushed.

    Returns:
      The HTML file and the JSON file.

    Raises:
      TerminalError: There is no such version.
    """
    from runtime import metadata_connection

    card = contents(metadata_connection.project_store(home), settings, home, wanted)
    file = home.reports(settings.name) / "cards" / f"{card['version']}.html"
    write_text(file, page(card))
    write_text(file.with_suffix(".json"), json.dumps(card, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return file, file.with_suffix(".json")


def main(args: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, 64 or 75 for a fault."""
    parser = arguments.parser("commands.card", __doc__ or "")
    parser.add_argument("version", nargs="?", default=LATEST, help="such as 201307010400001; latest by default")

    def command(settings: Supervised, chosen: argparse.Namespace) -> int:
        html, data = write(settings, Home.current(), chosen.version)
        print(f"The model card: {html}\nThe same as JSON: {data}")
        return 0

    return arguments.run(parser, args, command)


if __name__ == "__main__":
    sys.exit(main())
