"""Where state lives: one ignored folder, by default `.airtight` beside the code."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from airtight.interval import Interval

ROOT = Path(__file__).resolve().parent.parent
"""The checkout: what is on PYTHONPATH."""


@dataclass(frozen=True)
class Home:
    """Paths under the state folder.

    Args:
      path: The state folder, absolute.
    """

    path: Path

    @classmethod
    def current(cls) -> Home:
        """The folder named by AIRTIGHT_HOME, or `.airtight` in the checkout."""
        return cls(Path(os.environ.get("AIRTIGHT_HOME") or ROOT / ".airtight").resolve())

    @property
    def lake(self) -> Path:
        """Tables by day, Parquet."""
        return self.path / "lake"

    @property
    def downloads(self) -> Path:
        """Packages that hold data, as they were fetched and checked (`components.data.packaged_data`)."""
        return self.path / "downloads"

    @property
    def compiled(self) -> Path:
        """Compiled pipelines, `<pipeline>/<digest>.json`, which of them are current, and those that runs began with."""
        return self.path / "compiled"

    @property
    def metadata_db(self) -> Path:
        """ML Metadata on SQLite."""
        return self.path / "metadata.sqlite"

    def pipeline_root(self, pipeline: str) -> Path:
        """Artifacts of one pipeline."""
        return self.path / "artifacts" / pipeline

    @property
    def models_root(self) -> Path:
        """All served models, and `models.config`, which says what is served of each."""
        return self.path / "models"

    def models(self, model: str) -> Path:
        """The model server's base path of one model: a folder for each version."""
        return self.models_root / model

    @property
    def predictions(self) -> Path:
        """The prediction log of the local model servers: a folder for each model."""
        return self.path / "predictions"

    def reports(self, pipeline: str) -> Path:
        """Pages about a pipeline that belong to no single artifact."""
        return self.path / "reports" / pipeline

    def failed_report(self, pipeline: str, interval: Interval, node: str) -> Path:
        """Where a gate that failed keeps its report; the next attempt for the same interval replaces it."""
        name = f"{interval.start:%Y-%m-%dT%H%M}_{interval.end:%Y-%m-%dT%H%M}"
        return self.reports(pipeline) / name / node

    def gates(self, pipeline: str) -> Path:
        """One empty file for each DAG whose gates order runs of a pipeline, named by the DAG's id."""
        return self.path / "gates" / quote(pipeline, safe="")

    @property
    def audit(self) -> Path:
        """The audit logs, one file for each pipeline (`airtight.audit`)."""
        return self.path / "audit"

    @property
    def run(self) -> Path:
        """Sockets, pid files and secrets; its mode is 0700."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        """Logs of the local services."""
        return self.path / "logs"

    @property
    def launcher_socket(self) -> Path:
        """The warm launcher's unix socket, owner only."""
        return self.run / "launcher.sock"
