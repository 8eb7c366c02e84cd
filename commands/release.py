"""`make release`: a version on live requests before it takes over, by the pipeline's DAG of releases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from airtight.errors import TerminalError
from airtight.home import Home
from airtight.rollout.parameters import RELEASING
from airtight.supervised import RELEASE, Supervised
from commands import arguments
from commands.preparation import unpaused
from services.airflow_api import Airflow
from services.run_progress import show
from services.settings import Settings
from services.supervisor import Supervisor

OPTIONS = ("mode", "share", "minutes", "longest_minutes", "min_requests")
"""The run parameters of a release that the command takes, beside the version."""
_READ = {"str": str, "float": float, "int": int}


def release(settings: Supervised, conf: Mapping[str, Any], home: Home) -> bool:
    """Triggers the DAG and prints its progress until the release has ended.

    Args:
      settings: The pipeline's.
      conf: What differs from the form's defaults.
      home: The state folder.

    Returns:
      Whether the run succeeded; a version that was taken back for a reason is a success.

    Raises:
      TerminalError: The services do not run, or Airflow refuses the run.
    """
    if not Supervisor(home).running():
        raise TerminalError(
            "There are no live requests to try a version on.",
            expected="the local services, with Airflow, the model server and the router",
            received="services that do not run",
            remedy="Start them: make start.",
        )
    dag = settings.id_of(RELEASE)
    airflow = Airflow.local(Settings.of_running(home), home)
    # A fault of the file that trains is none of this DAG's.
    unpaused(airflow, dag, file=f"{settings.name}_operations")
    run = airflow.trigger(dag, conf)
    print(f"Triggered {dag}: {airflow.run_url(dag, run)}", flush=True)
    print(f"`make rollback PIPELINE={settings.name} REASON='...'` ends the release before its time.", flush=True)
    return show(airflow, dag, run, lambda line: print(line, flush=True))


def main(args: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, 1 where the run failed, 64 or 75 for a fault."""
    parser = arguments.parser("commands.release", __doc__ or "")
    of_release = {parameter.name: parameter for parameter in RELEASING}
    version, options = of_release["version"], [of_release[name] for name in OPTIONS]
    parser.add_argument("version", nargs="?", default=version.default, help=version.description)
    for option in options:
        parser.add_argument(
            f"--{option.name}", type=_READ[option.type], help=f"{option.description} ({option.default})"
        )

    def command(settings: Supervised, chosen: argparse.Namespace) -> int:
        given = {option.name: getattr(chosen, option.name) for option in options}
        conf = {option.name: option.check(given[option.name]) for option in options if given[option.name] is not None}
        return 0 if release(settings, {"version": chosen.version, **conf}, Home.current()) else 1

    return arguments.run(parser, args, command)


if __name__ == "__main__":
    sys.exit(main())
