"""Rolls the served model back or forward without Airflow: `make rollback`, `make promote VERSION=201307010400001`."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import uuid
from collections.abc import Sequence
from typing import Any

from airtight.errors import AirtightError
from airtight.home import Home
from runtime import local, logs
from runtime.client import Call, fresh
from runtime.compiled_store import name_of, path_of_name
from runtime.protocol import NodeRequest, Outcome
from services.settings import Settings, environment
from services.supervisor import Supervisor

PIPELINE = "flight_delays_promote"
MODEL = "flight_delays"
SERVERS = ("AIRTIGHT_MODEL_SERVER", "AIRTIGHT_ROUTER")


def promote(version: str, reason: str, home: Home) -> str:
    """Runs the pipeline of the DAG `flight_delays_promote`, whose approval is that a person gave the command.

    The warm launcher runs it where there is one: importing TFX here would take longer than all the rest.

    Args:
      version: A number, `previous` or `latest`.
      reason: Why.
      home: The state folder.

    Returns:
      What was done, in one sentence.

    Raises:
      AirtightError: It cannot be done; what was served is served.
    """
    logs.speak()
    by_launcher = home.launcher_socket.exists() and not _names_other_servers(home)
    if by_launcher:
        path = path_of_name(name_of(fresh(PIPELINE, home, say=print), home), home)
    else:
        from runtime.compile import compile_pipeline

        path = compile_pipeline(PIPELINE, home, make_current=False)
    values = {"version": version, "reason": reason}
    run = uuid.uuid4().hex[:8]
    outcomes = local.run(path, home, run, values, by=functools.partial(_ask, home) if by_launcher else None)
    for outcome in outcomes.values():
        outcome.raise_if_failed()
    return str(outcomes["promote"].outputs["promotion"][0]["properties"]["summary"])


def _names_other_servers(home: Home) -> bool:
    """Whether the caller's environment names others than the services', which the launcher would ask."""
    of_services = environment(Settings.of_running(home), home)
    return any(os.environ.get(name, told) != told for name in SERVERS if (told := of_services.get(name, "")))


def _ask(home: Home, request: NodeRequest) -> Outcome:
    with Call(request, home.launcher_socket) as call:
        for line in call.lines():
            print(line, flush=True)
        return call.outcome


def table(home: Home) -> list[str]:
    """Every version that could be served, the highest first: interval, ROC AUC, and whether it is served."""
    from components.modelling.model_server import ModelServer
    from components.modelling.registered import registered, served_before
    from components.modelling.served import Served
    from components.promote import NEVER_SERVED
    from components.rollout import switch
    from pipelines.flight_delays.promotions import NODES

    served, server = Served(home.models_root), ModelServer.named("")
    choice = served.choice(MODEL)
    by = "kept by a release" if choice.settled.is_left_to_a_release else "promoted by hand"
    available = server.available(MODEL) if server else None
    pushed = _newest(home, MODEL, "push", "pushed")
    known = registered(home.models(MODEL), pushed, _newest(home, MODEL, "evaluate", "evaluation"))
    promotions = [a for pipeline, node in NODES.items() for a in _newest(home, pipeline, node, "promotion")]
    current = switch.current(served, choice.settled, server, MODEL)
    may_return = served_before(MODEL, current, known.values(), pushed, promotions)
    lines = [f"{'version':<16} {'judged on':<24} {'AUC':<6} served"]
    for number, version in sorted(known.items(), reverse=True):
        judged_on = " to ".join(instant[:10] for instant in version.interval) if version.interval[0] else "not known"
        remarks = [
            "served" if available and number in available else "",
            f"{by} {choice.settled.at}: {choice.settled.reason or 'no reason given'}"
            if number == choice.pinned
            else "",
            f"tried by a release since {choice.at}" if choice.release and number == choice.trial else "",
            "" if number in (*may_return, current) else NEVER_SERVED,
            version.fault(),
        ]
        auc = f"{version.metric[1]:.4f}" if version.metric else "?"
        lines.append(f"{number:<16} {judged_on:<24} {auc:<6} {', '.join(filter(None, remarks))}".rstrip())
    if available is None:
        lines.append("No model server was asked: the local services do not run.")
    return lines


def _newest(home: Home, pipeline: str, node: str, key: str) -> list[Any]:
    """What the newest executions of a pipeline's node made, as the DAGs are given it."""
    from runtime import metadata_store
    from runtime.cross_run import newest_outputs

    with metadata_store.project_connection(home) as handle:
        return newest_outputs(handle.store, pipeline, node, key)


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, 64 or 75 for a fault."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.flight_delays.promote", description=__doc__)
    parser.add_argument("version", nargs="?", help="previous, latest, or a version such as 201307010400001")
    parser.add_argument("--reason", default="", help="why; it is kept")
    parser.add_argument("--list", action="store_true", help="show the versions")
    told = parser.parse_args(arguments)
    if bool(told.version) == told.list:
        parser.error("give a version, previous, latest, or --list")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    home = Home.current()
    if Supervisor(home).running():
        of_services = environment(Settings.of_running(home), home)
        for name in SERVERS:
            os.environ.setdefault(name, of_services.get(name, ""))
    try:
        print("\n".join(table(home)) if told.list else promote(told.version, told.reason, home))
    except AirtightError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
