"""`python -m services up|down|status|logs|env|password`: the local services from a terminal."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from airtight.errors import AirtightError
from airtight.home import Home
from services import flink_jars, health, jars
from services.environment import airflow_environment, environment
from services.settings import Settings
from services.state_folder import USER, password, password_file
from services.supervisor import ALWAYS, FLINK, ON_DEMAND, PROGRAMS, Supervisor, expand


def up(home: Home, names: Sequence[str] = ALWAYS) -> Settings:
    """Starts the named programs and waits until they are well; what runs already is left alone.

    Args:
      home: The state folder.
      names: Programs of supervisord.conf, or `flink` for the cluster.

    Returns:
      The settings that the services run with.

    Raises:
      AirtightError: A port is taken, jars cannot be fetched, or a service does not come up.
    """
    supervisor = Supervisor(home)
    wanted = Settings.from_environment()
    names = expand(names, wanted)
    for name in _jars_of(names):
        jars.fetch(name, wanted.ivy_settings, lambda line: print(line, flush=True))
    if set(names) & set(FLINK):
        # Once, and not by each of its programs at the same time.
        flink_jars.own_jar(home)
    if not supervisor.running():
        print(f"Starting the local services (state and logs: {home.path}) ...", flush=True)
    started = supervisor.start(wanted, names)
    settings = Settings.of_running(home)
    if not started:
        print("The local services are up already.", flush=True)
    chosen = [s for s in health.services(settings, home) if set(s.programs) <= set(names)]
    health.wait(supervisor, chosen, (lambda line: print(line, flush=True)) if started else (lambda line: None))
    return settings


def _jars_of(names: Sequence[str]) -> list[str]:
    """The sets of jars that some programs need."""
    sets = {"kafka": ("kafka",), **dict.fromkeys(FLINK, flink_jars.SETS)}
    return list(dict.fromkeys(jar for name in names for jar in sets.get(name, ())))


def status(home: Home) -> int:
    """Prints each program and each service; 0 when all that should run are well, 1 otherwise."""
    supervisor = Supervisor(home)
    programs = supervisor.programs()
    if not programs:
        print("The local services do not run. Start them: make start.")
        return 1
    for program in programs:
        print(f"{program.name:18} {program.state:9} {program.description}")
    print()
    ill, idle = 0, {program.name for program in programs if program.name in ON_DEMAND and program.state == "STOPPED"}
    load = ""
    for service in health.services(Settings.of_running(home), home):
        missing = service.missing()
        if service.name == "launcher" and not missing:
            load = health.launcher_load(home)
        if idle.issuperset(service.programs):
            missing = f"not started; start it: python -m services up {service.starts or service.programs[0]}"
        else:
            ill += bool(missing)
        print(f"{service.name:18} {missing or 'well':40} {service.address}")
    if load:
        print(f"\nRequests of the launcher: {load}.")
    print(f"\nLogs: {home.logs}/<name>.log. User of Airflow: {USER}, password: make password.")
    return 1 if ill else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m services", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    starting = commands.add_parser("up", help="start the services and wait until they are well")
    starting.add_argument(
        "names", nargs="*", default=ALWAYS, metavar="NAME", help=f"of {', '.join(PROGRAMS)}; flink is the Flink cluster"
    )
    ending = commands.add_parser("down", help="stop the services, their children included")
    ending.add_argument("names", nargs="*", metavar="NAME", help="only these; everything when none is named")
    commands.add_parser("status", help="show every service")
    commands.add_parser("logs", help="follow the logs")
    commands.add_parser("env", help="print Airflow's settings, for `eval` in a shell")
    commands.add_parser("password", help=f"print the password of {USER} in Airflow's UI")
    args = parser.parse_args(arguments)
    if args.command in ("up", "down") and (unknown := sorted(set(args.names) - {*PROGRAMS, "flink"})):
        parser.error(f"there is no {', '.join(unknown)}; the services are {', '.join(PROGRAMS)}")
    try:
        return _run(args, Home.current())
    except AirtightError as error:
        print(error, file=sys.stderr)
        return error.exit_status


def _run(args: argparse.Namespace, home: Home) -> int:
    if args.command == "up":
        up(home, tuple(args.names))
    elif args.command == "down" and args.names:
        stopped = Supervisor(home).end(args.names)
        print(f"Stopped: {', '.join(stopped)}." if stopped else "None of them runs.")
    elif args.command == "down":
        ended = Supervisor(home).stop()
        print(f"Stopped: {ended} processes ended." if ended else "Nothing runs.")
    elif args.command == "status":
        return status(home)
    elif args.command == "logs":
        logs = sorted(map(str, home.logs.glob("*.log")))
        os.execvp("tail", ["tail", "-n", "5", "-F", *logs])
    elif args.command == "env":
        settings = Settings.of_running(home)
        variables = environment(settings, home)
        for key in [*sorted(airflow_environment(settings, home)), "AIRTIGHT_HOME", "AIRTIGHT_METADATA", "PYTHONPATH"]:
            if key in variables:
                print(f"export {key}={shlex.quote(variables[key])}")
    elif args.command == "password":
        print(f"{password(home)}    (user {USER}, from {password_file(home)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
