"""Sends OpenLineage events of runs that have been: the same ones that were sent while they ran, from ML Metadata.

    python -m commands.lineage --pipeline NAME
    python -m commands.lineage --pipeline NAME --run scheduled__2013-07-01T04:00:00+00:00
    python -m commands.lineage --pipeline NAME --print

Ids are those of the runs, so that an event which is sent again replaces itself. Where events go is said by
OpenLineage's own settings (docs/lineage.md); `--print` sends none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from airtight.errors import TerminalError, TransientError
from airtight.home import Home
from airtight.supervised import Supervised
from commands import arguments

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent


def events(settings: Supervised, home: Home, run: str = "") -> Iterator[list[RunEvent]]:
    """The events of every attempt in the runs of a pipeline and its other parts, an attempt at a time.

    Args:
      settings: The pipeline's.
      home: The state folder.
      run: Airflow's run id, or the run's key, of the only run that counts; "" for all.
    """
    from runtime import metadata_connection
    from runtime.openlineage import record
    from runtime.openlineage.events import events_of

    store = metadata_connection.project_store(home)
    for part in settings.parts:
        for attempt in record.attempts_of(store, settings.id_of(part)):
            names = (attempt.name.rsplit("/", 2)[0], attempt.custom_properties["run_id"].string_value)
            if (not run or run in names) and (node_run := record.read(store, attempt, home)):
                yield events_of(node_run)


def send(settings: Supervised, home: Home, run: str = "") -> int:
    """Sends them.

    Args:
      settings: The pipeline's.
      home: The state folder.
      run: See `events`.

    Returns:
      How many were sent.

    Raises:
      TerminalError: OpenLineage's settings say nowhere, or what cannot be used.
      TransientError: The transport failed.
    """
    from runtime.openlineage.emit import Emitter, is_configured

    if not is_configured():
        raise TerminalError(
            "No OpenLineage event can be sent.",
            expected="OPENLINEAGE_URL, OPENLINEAGE__TRANSPORT__TYPE, or an openlineage.yml",
            received="none of them, or OPENLINEAGE_DISABLED=true",
            remedy="Say where events go (docs/lineage.md), or print them with --print.",
        )
    try:
        emitter = Emitter()
    except Exception as error:
        raise TerminalError(
            "OpenLineage's settings cannot be used.",
            expected="a transport with its settings (docs/lineage.md)",
            received=f"{type(error).__name__}: {error}",
            remedy="Correct the variables OPENLINEAGE_*, or openlineage.yml.",
        ) from error
    sent = 0
    for of_attempt in events(settings, home, run):
        try:
            emitter.emit(of_attempt)
        except Exception as error:
            raise TransientError(
                f"The transport {emitter.transport} failed after {sent} events.",
                expected="an event that is taken",
                received=f"{type(error).__name__}: {error}",
                remedy="See whether it can be reached, and repeat the command: what was sent replaces itself.",
            ) from error
        sent += len(of_attempt)
    emitter.close()
    return sent


def main(args: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, or 64 or 75 for a fault."""
    parser = arguments.parser("commands.lineage", __doc__ or "")
    parser.add_argument("--run", default="", metavar="ID", help="only this run: Airflow's run id, or the run's key")
    parser.add_argument("--print", action="store_true", help="print the events, one a line as JSON, and send none")

    def command(settings: Supervised, chosen: argparse.Namespace) -> int:
        home = Home.current()
        if chosen.print:
            from openlineage.client.serde import Serde

            for of_attempt in events(settings, home, chosen.run):
                for event in of_attempt:
                    print(Serde.to_json(event))
            return 0
        print(f"{send(settings, home, chosen.run)} events were sent.")
        return 0

    return arguments.run(parser, args, command)


if __name__ == "__main__":
    sys.exit(main())
