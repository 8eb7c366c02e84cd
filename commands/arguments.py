"""What the commands have in common: the option that names a pipeline, and faults in words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from airtight.errors import AirtightError
from airtight.supervised import Supervised, find


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """A parser of a command's arguments, of which `--pipeline` is one.

    Args:
      module: The command's module.
      description: What it does.
    """
    arguments = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    arguments.add_argument(
        "--pipeline",
        required=True,
        metavar="NAME",
        help="a folder of pipelines/ with settings, or package.settings:SETTINGS",
    )
    return arguments


def run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    command: Callable[[Supervised, argparse.Namespace], int],
) -> int:
    """Reads the command line and does what it says.

    Args:
      parser: As `parser` gives it.
      arguments: The arguments; None for those of the process.
      command: Does it, and returns the exit status.

    Returns:
      The exit status, 64 or 75 for a fault, which is printed.
    """
    chosen = parser.parse_args(arguments)
    try:
        settings, _ = find(chosen.pipeline)
        return command(settings, chosen)
    except AirtightError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_status
