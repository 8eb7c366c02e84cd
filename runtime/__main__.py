"""`python -m runtime compile | run | launch | replay | serve`: TFX pipelines without Airflow.

`run` and `launch` keep what they make in a scratch folder of the state folder, unless they are given --push.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

from airtight.errors import EXIT_TERMINAL, EXIT_TRANSIENT, AirtightError
from airtight.home import ROOT, Home
from runtime.protocol import EXIT_SKIPPED, NodeRequest, Outcome, run_key


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit status: 0, 64 for a fault that no retry heals, 75 for one that a retry may heal, 99 for a skipped node.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # ML Metadata would tell of each connection to PostgreSQL, twice.
    os.environ.setdefault("GLOG_minloglevel", "1")
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    args = _parser().parse_args(arguments)
    try:
        return int(args.command(args))
    except AirtightError as error:
        print(f"{'transient' if error.transient else 'terminal'} fault: {error}", file=sys.stderr)
        return error.exit_status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runtime", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    compile_ = commands.add_parser("compile", help="compile pipelines")
    compile_.add_argument(
        "pipelines",
        nargs="+",
        metavar="PIPELINE",
        help="id of a pipeline of pipelines/, package.module:function, or an IR file",
    )
    _add_arguments(compile_)
    compile_.set_defaults(command=_compile)

    run = commands.add_parser("run", help="run all nodes of a pipeline here, without Airflow")
    _add_values(run)
    run.set_defaults(command=_run)

    launch = commands.add_parser("launch", help="run one node in this process")
    _add_values(launch)
    launch.add_argument("node", metavar="NODE")
    launch.set_defaults(command=_launch)

    replay = commands.add_parser("replay", help="execute a past run's nodes again, and compare what they make")
    replay.add_argument("run", metavar="RUN", help="Airflow's run id, or a local run's")
    replay.add_argument("--pipeline", default="", help="its id or source, where several have that run")
    replay.add_argument("--node", action="append", default=[], metavar="NODE", help="only this node; may be repeated")
    replay.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="keep what the replay makes there")
    _add_scratch(replay)
    replay.set_defaults(command=_replay)

    serve = commands.add_parser("serve", help="serve warm launches on the state folder's unix socket")
    serve.add_argument("--socket", type=Path, default=None, help="another socket")
    serve.set_defaults(command=_serve)

    clean = commands.add_parser("clean", help="remove old artifacts that nothing served or blessed rests on")
    clean.add_argument("--days", type=float, default=30.0, help="keep what was made or used in so many days")
    clean.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    clean.add_argument("--all", action="store_true", help="look at all of history, not only at what became old since")
    clean.add_argument(
        "--give-up-days", type=float, default=30.0, help="mark executions failed that were open for so many days"
    )
    _add_scratch(clean)
    clean.set_defaults(command=_clean)

    answer = commands.add_parser("answer", help="do the one request that comes over standard input, which is a socket")
    answer.add_argument("--socket", type=Path, default=None, help="a socket to make, and to take the request from")
    answer.set_defaults(command=_answer)
    return parser


def _add_values(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pipeline", metavar="PIPELINE")
    parser.add_argument("--interval", default="", help="the data interval, such as 2013-06")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a runtime parameter")
    parser.add_argument("--no-cache", dest="cache", action="store_false", help="run every node, whatever is known")
    parser.add_argument("--run-id", default="", help="names the run; one that is there already gets further attempts")
    parser.add_argument(
        "--push",
        action="store_true",
        help="run in the state folder itself: what is pushed is served, and later runs compare with it",
    )
    _add_arguments(parser)


def _add_scratch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scratch", action="store_true", help="of the runs that were tried out, without --push")


def _home(args: argparse.Namespace) -> Home:
    """The state folder that a command over past runs is about."""
    from runtime import local

    return local.scratch(Home.current()) if args.scratch else Home.current()


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument of create_pipeline, JSON or text"
    )


def _compile(args: argparse.Namespace) -> int:
    if len(args.pipelines) > 1:
        # A process for each: what one has imported, and where from, would be taken for a part of the next.
        alone = [sys.executable, "-m", "runtime", "compile", *(f"--arg={setting}" for setting in args.arg)]
        ended = (subprocess.run([*alone, pipeline], check=False) for pipeline in args.pipelines)
        return next((process.returncode for process in ended if process.returncode), 0)

    from runtime import local
    from runtime.compile import compile_pipeline

    (pipeline,) = args.pipelines
    path = compile_pipeline(pipeline, arguments=local.arguments(args.arg))
    print(f"Compiled {pipeline} to {path}.")
    return 0


def _run(args: argparse.Namespace) -> int:
    from runtime import local
    from runtime.compiled_pipeline import CompiledPipeline

    home, path = _compiled_for_run(args)
    values = local.typed(CompiledPipeline.read(path), args.interval, args.set)
    run_id = args.run_id or _fresh_id(args.interval)
    outcomes = local.run(path, home, run_id, values, use_cache=args.cache)
    print(f"The run {run_id} lies in {home.path}.")
    return _status([*outcomes.values()])


def _launch(args: argparse.Namespace) -> int:
    from runtime import local
    from runtime.compiled_pipeline import CompiledPipeline
    from runtime.launch import launch

    home, path = _compiled_for_run(args)
    compiled = CompiledPipeline.read(path)
    run_id = args.run_id or _fresh_id(args.interval)
    request = NodeRequest(
        compiled=str(path),
        node=args.node,
        run=run_key("local", compiled.pipeline, run_id),
        attempt=uuid.uuid4().hex,
        home=str(home.path),
        parameters=local.typed(compiled, args.interval, args.set),
        labels={"run_id": run_id},
        use_cache=args.cache,
    )
    outcome = launch(request)
    return EXIT_SKIPPED if outcome.state == "skipped" else _status([outcome])


def _compiled_for_run(args: argparse.Namespace) -> tuple[Home, Path]:
    """The state folder of a local run, and the pipeline compiled for it: never the one that DAGs use."""
    from runtime import local, logs
    from runtime.compile import compile_pipeline

    logs.speak()
    home = Home.current() if args.push else local.scratch(Home.current())
    return home, compile_pipeline(args.pipeline, home, arguments=local.arguments(args.arg), make_current=False)


def _replay(args: argparse.Namespace) -> int:
    from runtime.replay import replay

    # TFX warns of what no pipeline of this project has.
    logging.getLogger("absl").setLevel(logging.ERROR)

    def say(line: str) -> None:
        print(line, flush=True)

    replayed = replay(args.run, _home(args), pipeline=args.pipeline, nodes=args.node, keep=args.keep, say=say)
    equal = sum(result.state == "equal" for result in replayed)
    print(f"The run is repeatable: {equal} nodes are equal, {len(replayed) - equal} were not replayed.")
    return 0


def _serve(args: argparse.Namespace) -> int:
    from runtime.prefork_server import serve

    serve(args.socket or Home.current().launcher_socket)
    return 0


def _clean(args: argparse.Namespace) -> int:
    from runtime import compiled_store, metadata_store, retention

    home = _home(args)
    with metadata_store.project_connection(home) as handle:
        cleaned = retention.clean(
            handle.store,
            home,
            days=args.days,
            dry_run=args.dry_run,
            everything=args.all,
            give_up_days=args.give_up_days,
        )
    compiled = compiled_store.remove_old(home, days=args.days, dry_run=args.dry_run)
    for old in (*cleaned.removed, *compiled):
        print(f"{'Would remove' if args.dry_run else 'Removed'} {old}.")
    done = "would go" if args.dry_run else "are gone"
    print(
        f"{len(cleaned.removed)} artifacts, {cleaned.bytes / 2**20:.1f} MiB, {done}; of the others that were looked at "
        f"{cleaned.recent} were used in the last {args.days:g} days, "
        f"{cleaned.needed} are what pushed or blessed models rest on, {len(cleaned.kept)} could not be removed. "
        f"{len(compiled)} compiled pipelines that no recent run began with {done}."
    )
    return 0


def _answer(args: argparse.Namespace) -> int:
    from runtime.worker import answer, first_connection

    answer(first_connection(args.socket) if args.socket else socket.socket(fileno=os.dup(0)))
    return 0


def _fresh_id(interval: str) -> str:
    return f"{interval or 'run'}.{uuid.uuid4().hex[:8]}"


def _status(outcomes: list[Outcome]) -> int:
    failures = [AirtightError.from_json(outcome.error) for outcome in outcomes if outcome.state == "failed"]
    if not failures:
        return 0
    return EXIT_TERMINAL if any(not failure.transient for failure in failures) else EXIT_TRANSIENT


if __name__ == "__main__":
    sys.exit(main())
