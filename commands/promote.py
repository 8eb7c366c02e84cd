"""Rolls the served model back or forward without Airflow: `make rollback`, `make promote VERSION=201307010400001`."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import uuid
from collections.abc import Sequence
from typing import Any

from airtight.errors import TerminalError
from airtight.home import Home
from airtight.supervised import PROMOTE, PROMOTIONS, Supervised
from commands import arguments
from runtime import local, logs
from runtime.client import Call
from runtime.compiled_store import name_of, path_of_name
from runtime.fresh_pipelines import fresh
from runtime.protocol import NodeRequest, Outcome
from services.environment import environment
from services.settings import Settings
from services.supervisor import Supervisor

SERVERS = ("AIRTIGHT_MODEL_SERVER", "AIRTIGHT_ROUTER")


def promote(settings: Supervised, version: str, reason: str, home: Home) -> str:
    """Runs the promotion pipeline; its approval is that a person gave the command.

    The warm launcher runs it where there is one: importing TFX here would take longer than all the rest.

    Args:
      settings: The pipeline's.
      version: A number, `previous` or `latest`.
      reason: Why.
      home: The state folder.

    Returns:
      What was done, in one sentence.

    Raises:
      AirtightError: It cannot be done; what was served is served.
    """
    logs.speak()
    source, of_source = settings.source(PROMOTE)
    by_launcher = home.launcher_socket.exists() and not names_other_servers(home)
    if by_launcher:
        path = path_of_name(name_of(fresh(source, home, arguments=of_source or None, say=print), home), home)
    else:
        from runtime.compile import compile_pipeline

        path = compile_pipeline(source, home, arguments=of_source, make_current=False)
    values = {"version": version, "reason": reason}
    run = uuid.uuid4().hex[:8]
    outcomes = local.run(path, home, run, values, by=functools.partial(_ask, home) if by_launcher else None)
    for outcome in outcomes.values():
        outcome.raise_if_failed()
    return str(outcomes["promote"].outputs["promotion"][0]["properties"]["summary"])


def names_other_servers(home: Home) -> bool:
    """Whether the caller's environment names others than the services', which the launcher would ask."""
    of_services = environment(Settings.of_running(home), home)
    return any(os.environ.get(name, address) != address for name in SERVERS if (address := of_services.get(name, "")))


def _ask(home: Home, request: NodeRequest) -> Outcome:
    with Call(request, home.launcher_socket) as call:
        for line in call.lines():
            print(line, flush=True)
        return call.outcome


def table(settings: Supervised, home: Home) -> list[str]:
    """Every version that could be served, the highest first: interval, foremost metric, and whether it is served."""
    from components.modelling.model_server import ModelServer
    from components.modelling.registered import registered, served_before
    from components.modelling.served import Served
    from components.promote import NEVER_SERVED
    from components.rollout import switch

    model = settings.name
    served, server = Served(home.models_root), ModelServer.named("")
    choice = served.choice(model)
    by = "kept by a release" if choice.settled.is_left_to_a_release else "promoted by hand"
    available = server.available(model) if server else None
    pushed = _newest(home, model, "push", "pushed")
    known = registered(home.models(model), pushed, _newest(home, model, "evaluate", "evaluation"))
    promotions = [
        a for part, node in PROMOTIONS.items() for a in _newest(home, settings.id_of(part), node, "promotion")
    ]
    current = switch.current(served, choice.settled, server, model)
    may_return = served_before(model, current, known.values(), pushed, promotions)
    title = next((version.metric[0] for version in known.values() if version.metric), "metric")
    lines = [f"{'version':<16} {'judged on':<24} {title} served"]
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
        metric = f"{version.metric[1]:.4f}" if version.metric else "?"
        lines.append(f"{number:<16} {judged_on:<24} {metric:<{len(title)}} {', '.join(filter(None, remarks))}".rstrip())
    if available is None:
        lines.append("No model server was asked: the local services do not run.")
    return lines


def _newest(home: Home, pipeline: str, node: str, key: str) -> list[Any]:
    """What the newest executions of a pipeline's node made, as the DAGs are given it."""
    from runtime import metadata_store
    from runtime.cross_run import newest_outputs

    with metadata_store.project_connection(home) as handle:
        return newest_outputs(handle.store, pipeline, node, key)


def main(args: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, 64 or 75 for a fault."""
    parser = arguments.parser("commands.promote", __doc__ or "")
    parser.add_argument("version", nargs="?", help="previous, latest, or a version such as 201307010400001")
    parser.add_argument("--reason", default="", help="why; it is kept, and must be given")
    parser.add_argument("--list", action="store_true", help="show the versions")

    def command(settings: Supervised, chosen: argparse.Namespace) -> int:
        if bool(chosen.version) == chosen.list:
            parser.error("give a version, previous, latest, or --list")
        if PROMOTE not in settings.parts:
            raise TerminalError(
                f"No version of {settings.name} can be promoted.",
                expected="a pipeline whose settings have `release`",
                received=f"parts {', '.join(settings.parts)}",
                remedy="Set release in the pipeline's settings, or name another pipeline.",
            )
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        home = Home.current()
        if Supervisor(home).running():
            of_services = environment(Settings.of_running(home), home)
            for name in SERVERS:
                os.environ.setdefault(name, of_services.get(name, ""))
        if chosen.list:
            print("\n".join(table(settings, home)))
        else:
            print(promote(settings, chosen.version, chosen.reason, home))
        return 0

    return arguments.run(parser, args, command)


if __name__ == "__main__":
    sys.exit(main())
