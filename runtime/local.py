"""A whole run here and now, without Airflow: the same nodes through the same launch."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airtight.audit.actor import USER, user_of_shell
from airtight.errors import TerminalError
from airtight.home import Home
from airtight.interval import FORMS, Interval
from runtime.compiled_pipeline import ENDED_ANYHOW, CompiledPipeline, Node
from runtime.protocol import NodeRequest, Outcome, run_key

log = logging.getLogger(__name__)


def run(
    compiled_path: Path,
    home: Home,
    run_id: str,
    values: dict[str, Any],
    *,
    use_cache: bool = True,
    by: Callable[[NodeRequest], Outcome] | None = None,
) -> dict[str, Outcome]:
    """Runs all nodes in topological order; what comes after a failed node does not run.

    A node that cannot do without the output of a skipped node is skipped, too; others that come after that one run.

    Args:
      compiled_path: The compiled pipeline.
      home: The state folder.
      run_id: Names the run; given again, it adds attempts to it.
      values: The runtime parameters.
      use_cache: Whether earlier results may stand for new ones.
      by: Runs a node; None runs it in this process, which imports TFX.

    Returns:
      The outcome of each node that ran or was skipped.
    """
    if by is None:
        from runtime.launch import launch

        by = launch
    compiled = CompiledPipeline.read(compiled_path)
    parameters = compiled.bind(values)
    outcomes: dict[str, Outcome] = {}
    for number, node in enumerate(compiled.nodes, 1):
        progress = f"[{number}/{len(compiled.nodes)}] {node.id}"
        if node.trigger not in ENDED_ANYHOW:
            if blocked := _blocked(node, outcomes):
                log.warning("%s does not run, because %s did not succeed.", progress, ", ".join(blocked))
                continue
            if missing := [] if node.ends else _missing(node, outcomes):
                outcomes[node.id] = Outcome(
                    "skipped", summary=f"{node.id} was skipped, because {', '.join(missing)} was."
                )
                log.info("%s was skipped, because %s was.", progress, ", ".join(missing))
                continue
        log.info("%s starts.", progress)
        outcomes[node.id] = by(
            NodeRequest(
                compiled=str(compiled_path),
                node=node.id,
                run=run_key("local", compiled.pipeline, run_id),
                attempt=uuid.uuid4().hex,
                home=str(home.path),
                parameters=parameters,
                labels={"run_id": run_id, USER: user_of_shell()},
                use_cache=use_cache,
            )
        )
    return outcomes


def scratch(home: Home) -> Home:
    """Prepares the state folder of runs that are tried out: its lake is the real one's, all else is its own.

    What is pushed there is not served, and no run of Airflow's compares with it. Its cache is shared by all such runs.

    Args:
      home: The real state folder.

    Returns:
      The scratch folder, in which this process runs from now on.
    """
    place = Home(home.path / "scratch")
    link_lake(home, place)
    os.environ["AIRTIGHT_HOME"] = str(place.path)
    # The store, the servers and the router that these name are the real ones.
    for name in ("AIRTIGHT_METADATA", "AIRTIGHT_MODEL_SERVER", "AIRTIGHT_ROUTER"):
        os.environ.pop(name, None)
    return place


def link_lake(home: Home, place: Home) -> None:
    """Gives a state folder the tables of another's lake by links; notes beside them are written in its own folder."""
    place.lake.mkdir(parents=True, exist_ok=True)
    for table in home.lake.iterdir() if home.lake.is_dir() else ():
        link = place.lake / table.name
        # A hidden folder is no table: it is that of a write under way, or of one that was killed.
        if table.is_dir() and not table.name.startswith(".") and not link.is_symlink():
            link.symlink_to(table)


def arguments(settings: list[str]) -> dict[str, Any]:
    """Reads the arguments of `create_pipeline` as they were typed: JSON where it is JSON, text otherwise.

    Args:
      settings: `name=value` for each.

    Raises:
      TerminalError: A setting of another form.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise _wrong("--arg name=value", setting)
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def _blocked(node: Node, outcomes: dict[str, Outcome]) -> list[str]:
    """The nodes that failed or did not run, so that this one does not run either."""
    # What gives a resource back does so whatever became of those that used it.
    if node.ends:
        return [up for up in (node.ends,) if up not in outcomes or outcomes[up].state in ("failed", "skipped")]
    return [up for up in node.upstream if up not in outcomes or outcomes[up].state == "failed"]


def _missing(node: Node, outcomes: dict[str, Outcome]) -> list[str]:
    """The nodes that were skipped and without which a node has nothing to do."""
    missing = (group for group in node.needs if all(outcomes[up].state == "skipped" for up in group))
    return sorted({up for group in missing for up in group})


def typed(compiled: CompiledPipeline, interval: str, settings: list[str]) -> dict[str, Any]:
    """Reads what was typed on the command line.

    Args:
      compiled: The compiled pipeline.
      interval: A data interval, or "".
      settings: `key=value` for each.

    Raises:
      TerminalError: A setting of another form, or of the wrong type.
    """
    kinds = {parameter.name: _READ[parameter.type] for parameter in compiled.parameters}
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        try:
            values[name] = kinds.get(name, str)(text)
        except ValueError as error:
            kind = next(parameter.type for parameter in compiled.parameters if parameter.name == name)
            raise _wrong(f"a value of {name} of type {kind}", setting) from error
        if not equals:
            raise _wrong("--set key=value", setting)
    if compiled.interval and not interval:
        raise _wrong(f"--interval {FORMS}", "none")
    if interval:
        span = Interval.parse(interval, compiled.zone)
        values |= {"interval_start": span.start.isoformat(), "interval_end": span.end.isoformat()}
    return values


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(text)
    return text.lower() in ("true", "1")


_READ: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float, "bool": _bool}


def _wrong(expected: str, received: str) -> TerminalError:
    return TerminalError(
        "The command line cannot be read.",
        expected=expected,
        received=received,
        remedy="Correct the command; `--help` shows its form.",
    )
