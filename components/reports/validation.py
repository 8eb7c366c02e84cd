"""The report of validate: `verdict.json` to decide by, `report.json` with all that was found, `report.html` to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import jinja2

from airtight.files import write_text
from airtight.verdict import Verdict
from components.data.dataset import DatasetReader
from components.measures.judging import Finding, in_words

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class ValidationSummary:
    """All that validate found in one run.

    Args:
      pipeline: Name of the pipeline.
      reader: The data that were judged.
      findings: One for each expectation, in order.
    """

    pipeline: str
    reader: DatasetReader
    findings: Sequence[Finding]

    @property
    def verdict(self) -> Verdict:
        """The gate's verdict: it passes when no blocking expectation failed."""
        return Verdict("validate", str(self.reader.interval), tuple(finding.to_check() for finding in self.findings))

    def unmet(self, severity: str) -> list[Finding]:
        """The findings of a severity that do not hold."""
        return [finding for finding in self.findings if not finding.passed and finding.severity == severity]

    def write(self, folder: Path) -> None:
        """Writes the three files, each atomically."""
        write_text(folder / REPORT_JSON, json.dumps(self._payload(), indent=1, allow_nan=False))
        write_text(folder / REPORT_HTML, self._html())
        self.verdict.write(folder)

    def _payload(self) -> dict[str, object]:
        interval = self.reader.interval
        return {
            "pipeline": self.pipeline,
            "interval_start": interval.start.isoformat(),
            "interval_end": interval.end.isoformat(),
            "history_start": self.reader.history_start.isoformat(),
            "dataset_digest": self.reader.digest,
            "passed": self.verdict.passed,
            "findings": [
                {**asdict(finding), "measured": finding.measured, "bound": finding.bound} for finding in self.findings
            ],
        }

    def _html(self) -> str:
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True)
        environment.filters["in_words"] = in_words
        groups = groupby(self.findings, key=lambda finding: (finding.part, finding.subject))
        return environment.get_template("validation.html").render(
            summary=self,
            interval=self.reader.interval,
            history_start=self.reader.history_start,
            tables=self.reader.tables.values(),
            unmet=self.unmet("blocking") + self.unmet("warning"),
            groups=[(part, subject, list(grouped)) for (part, subject), grouped in groups],
        )
