"""`make release`: a version on live requests before it takes over, by the DAG flight_delays_release."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from airtight.errors import AirtightError, TerminalError
from airtight.home import Home
from pipelines.flight_delays.settings import RELEASES
from pipelines.flight_delays_release import settings
from services.airflow_api import Airflow, show
from services.settings import Settings
from services.supervisor import Supervisor

OPTIONS = (settings.MODE, settings.SHARE, settings.MINUTES, settings.LONGEST_MINUTES, settings.MIN_REQUESTS)
DAG_TIMEOUT_S = 120.0
_READ = {"str": str, "float": float, "int": int}


def release(conf: Mapping[str, Any], home: Home) -> bool:
    """Triggers the DAG and tells its progress until the release has ended.

    Args:
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
    airflow = Airflow.local(Settings.of_running(home), home)
    airflow.await_dag(RELEASES, DAG_TIMEOUT_S)
    airflow.unpause(RELEASES)
    run = airflow.trigger(RELEASES, conf)
    print(f"Triggered {RELEASES}: {airflow.run_url(RELEASES, run)}", flush=True)
    print("`make rollback` ends the release before its time.", flush=True)
    return show(airflow, RELEASES, run, lambda line: print(line, flush=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, 1 where the run failed, 64 or 75 for a fault."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.flight_delays.release", description=__doc__)
    parser.add_argument("version", nargs="?", default=settings.VERSION.default, help=settings.VERSION.description)
    for option in OPTIONS:
        kind = _READ[option.type]
        parser.add_argument(f"--{option.name}", type=kind, help=f"{option.description} ({option.default})")
    told = vars(parser.parse_args(arguments))
    try:
        conf = {option.name: option.check(told[option.name]) for option in OPTIONS if told[option.name] is not None}
        return 0 if release({"version": told["version"], **conf}, Home.current()) else 1
    except AirtightError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
