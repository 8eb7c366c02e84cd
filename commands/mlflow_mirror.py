"""Mirrors a pipeline's runs and its model's versions to the MLflow tracking server that MLFLOW_TRACKING_URI names.

    MLFLOW_TRACKING_URI=http://mlflow:5000 python -m commands.mlflow_mirror --pipeline NAME

The pipeline's task `report` does the same after every run. What is there already is found by its tags and brought up to
date, so a mirror that failed, or was not there, is made up for by the next (docs/lineage.md).
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airtight.errors import TerminalError, TransientError
from airtight.home import Home
from airtight.supervised import Supervised
from commands import arguments
from commands.mirrored_runs import (
    ALIASES,
    EXECUTIONS,
    RUN,
    RUNNING,
    VERSION,
    MirroredRun,
    MirroredVersion,
    aliases_of,
    run_of,
    versions_of,
)

if TYPE_CHECKING:
    import ml_metadata as mlmd
    from mlflow import MlflowClient
    from mlflow.entities import Run as TrackedRun

TRACKING_URI = "MLFLOW_TRACKING_URI"
KNOWN_IN_A_ROW = 20
"""After so many runs without news, the newest first, a mirror that follows a run ends."""
_SUPERSEDED = "airtight.superseded"
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Settings of MLflow that the environment overrules: else its client waits for minutes, and reports its own use."""
_PARAMETERS, _METRICS = 100, 1000
"""How many MLflow takes at once."""


@dataclass(frozen=True)
class Counts:
    """What a mirror did.

    Args:
      written: Runs that were new or had changed.
      known: Runs that were there as they are.
      versions: Versions that were new.
      aliases: The version of each alias, 0 for none.
    """

    written: int
    known: int
    versions: int
    aliases: dict[str, int]

    def __str__(self) -> str:
        aliases = ", ".join(f"{name} {version}" for name, version in self.aliases.items() if version)
        return (
            f"MLflow: {self.written} runs written, {self.known} known, {self.versions} new versions; "
            f"aliases: {aliases or 'none'}."
        )


def mirror(settings: Supervised, home: Home, *, known_in_a_row: int = 0) -> Counts:
    """Mirrors the runs of a pipeline's training, its versions and their aliases.

    Args:
      settings: The pipeline's.
      home: The state folder.
      known_in_a_row: Ends with the runs after so many without news, the newest first; 0 looks at all.

    Raises:
      TerminalError: MLflow's client is not installed.
      TransientError: The server does not answer, or refuses.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise TerminalError(
            "MLflow's client is not installed.",
            expected="mlflow-skinny of requirements/mlflow.txt",
            received=str(error),
            remedy="make mlflow",
        ) from error
    from runtime import metadata_connection

    store = metadata_connection.project_store(home)
    home.path.mkdir(parents=True, exist_ok=True)
    # Two mirrors at once would both miss, and write, the same run.
    with (home.path / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _Mirror(MlflowClient(), store, settings.name).all(home, known_in_a_row)
        except MlflowException as error:
            raise TransientError(
                f"What is known of {settings.name} was not mirrored to MLflow.",
                expected=f"a tracking server at {os.environ.get(TRACKING_URI, '')}",
                received=str(error).strip().splitlines()[0],
                remedy="See whether it runs; the next mirror makes up for it.",
            ) from error


class _Mirror:
    """One pipeline's experiment and registered model, both of its name."""

    def __init__(self, client: MlflowClient, store: mlmd.MetadataStore, name: str) -> None:
        self._client, self._store, self._name = client, store, name
        experiment = client.get_experiment_by_name(name)
        self._experiment = str(experiment.experiment_id if experiment else client.create_experiment(name))

    def all(self, home: Home, known_in_a_row: int) -> Counts:
        from runtime.lineage.runs import newest

        written = known = in_a_row = 0
        for run in newest(self._store, self._name, KNOWN_IN_A_ROW):
            if self._run(run_of(self._store, run)):
                written, in_a_row = written + 1, 0
            else:
                known, in_a_row = known + 1, in_a_row + 1
            if in_a_row == known_in_a_row > 0:
                break
        aliases = aliases_of(self._store, self._name, home)
        return Counts(written, known, self._versions(versions_of(self._store, self._name), aliases), aliases)

    def _tracked(self, key: str) -> TrackedRun | None:
        """MLflow's run of a run; one that a person deleted there counts, so that it stays deleted."""
        from mlflow.entities import ViewType

        wanted = f"tags.`{RUN}` = '{key}'"
        tracked = self._client.search_runs([self._experiment], wanted, ViewType.ALL, order_by=["attributes.start_time"])
        return next((run for run in tracked if _SUPERSEDED not in run.data.tags), None)

    def _run(self, run: MirroredRun) -> bool:
        """Writes a run, unless it is there as it is."""
        tracked = self._tracked(run.key)
        if tracked and (
            tracked.info.lifecycle_stage == "deleted" or tracked.data.tags.get(EXECUTIONS) == run.tags[EXECUTIONS]
        ):
            return False
        if tracked and any(run.parameters.get(name, value) != value for name, value in tracked.data.params.items()):
            # MLflow changes no parameter, and a Clear may.
            self._client.set_tag(tracked.info.run_id, _SUPERSEDED, "true")
            tracked = None
        number = tracked.info.run_id if tracked else self._create(run)
        self._fill(number, run, tracked.data.params if tracked else {})
        return True

    def _create(self, run: MirroredRun) -> str:
        # Its executions come last: a mirror that is broken off before is taken up again.
        created = self._client.create_run(self._experiment, run.began, {RUN: run.key}, run.name)
        return str(created.info.run_id)

    def _fill(self, number: str, run: MirroredRun, there: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        parameters = [Param(name, value) for name, value in run.parameters.items() if name not in there]
        metrics = [Metric(m.name, m.value, m.at, m.step) for m in run.metrics]
        for first in range(0, len(parameters), _PARAMETERS):
            self._client.log_batch(number, params=parameters[first : first + _PARAMETERS])
        for first in range(0, len(metrics), _METRICS):
            self._client.log_batch(number, metrics=metrics[first : first + _METRICS])
        if run.status == RUNNING:
            self._client.update_run(number, RUNNING)
        else:
            self._client.set_terminated(number, run.status, run.ended)
        tags = [RunTag(name, value) for name, value in run.tags.items()]
        self._client.log_batch(number, tags=sorted(tags, key=lambda tag: tag.key == EXECUTIONS))

    def _versions(self, versions: Sequence[MirroredVersion], aliases: dict[str, int]) -> int:
        """Registers versions that are new, the oldest first, and sets the aliases; gives how many were new."""
        if not versions:
            return 0
        there = self._registered()
        new = [version for version in versions if version.number not in there]
        for version in new:
            tracked = self._tracked(version.run) if version.run else None
            made = self._client.create_model_version(
                self._name,
                # The files stay where they are: a server takes no path outside of its own store.
                source=f"airtight://{self._name}/{version.number}",
                run_id=tracked.info.run_id if tracked else None,
                tags=dict(version.tags),
            )
            there[version.number] = str(made.version)
        self._alias(there, aliases)
        return len(new)

    def _registered(self) -> dict[int, str]:
        """MLflow's numbers of the versions that are there, by ours; makes the registered model where there is none."""
        if not self._client.search_registered_models(f"name = '{self._name}'"):
            self._client.create_registered_model(self._name, {"airtight.pipeline": self._name})
        there: dict[int, str] = {}
        token: str | None = ""
        while token is not None:
            page: Any = self._client.search_model_versions(f"name = '{self._name}'", page_token=token or None)
            there |= {int(known.tags[VERSION]): str(known.version) for known in page if VERSION in known.tags}
            token = page.token or None
        return there

    def _alias(self, there: dict[int, str], aliases: dict[str, int]) -> None:
        present = self._client.get_registered_model(self._name).aliases
        for name in ALIASES:
            wanted = there.get(aliases[name])
            if wanted and str(present.get(name)) != wanted:
                self._client.set_registered_model_alias(self._name, name, wanted)
            elif not wanted and name in present:
                self._client.delete_registered_model_alias(self._name, name)


def after_run(settings: Supervised, home: Home) -> str:
    """Mirrors what is new where MLFLOW_TRACKING_URI is set; whatever goes wrong is said, and holds nobody up.

    Args:
      settings: The pipeline's.
      home: The state folder.

    Returns:
      What was done, or why it was not; "" where no server is named.
    """
    if not os.environ.get(TRACKING_URI):
        return ""
    try:
        return str(mirror(settings, home, known_in_a_row=KNOWN_IN_A_ROW))
    except Exception as error:  # noqa: BLE001 - the client raises whatever its store and its libraries do
        return f"Warning: nothing was mirrored to MLflow; the next run makes up for it. {type(error).__name__}: {error}"


def main(args: Sequence[str] | None = None) -> int:
    """Reads the command line; the exit status is 0, or 64 or 75 for a fault."""
    parser = arguments.parser("commands.mlflow_mirror", __doc__ or "")

    def command(settings: Supervised, _: argparse.Namespace) -> int:
        if not os.environ.get(TRACKING_URI):
            raise TerminalError(
                "No tracking server is named.",
                expected=f"{TRACKING_URI}, such as http://mlflow:5000 or sqlite:////folder/mlflow.db",
                received="none",
                remedy=f"Set {TRACKING_URI}.",
            )
        print(mirror(settings, Home.current()))
        return 0

    return arguments.run(parser, args, command)


if __name__ == "__main__":
    sys.exit(main())
