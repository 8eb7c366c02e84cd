"""How good a version was, for its model card: on its own interval, on later ones as the champion, and day by day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.reports import year
from components.watch.quality_days import FILE

if TYPE_CHECKING:
    import ml_metadata as mlmd

    from runtime.lineage.artifacts import Artifact


def metrics(evaluation: Artifact | None) -> list[dict[str, Any]]:
    """The metrics of an evaluation; none where there was none."""
    if evaluation is None:
        return []
    return [
        {
            "title": metric.title,
            "value": metric.value,
            "champion": metric.champion,
            "gain": metric.gain._asdict() if metric.gain else None,
        }
        for metric in year.measured(evaluation.properties)
    ]


def of_later_intervals(store: mlmd.MetadataStore, pipeline: str, version: int) -> list[dict[str, Any]]:
    """What later intervals' evaluations measured of a version, their champion; of each interval the last."""
    from runtime.lineage import versions

    evaluations = versions.evaluations_beside(store, pipeline, version)
    latest = {str(evaluation.properties.get("interval_end", "")): evaluation for evaluation in evaluations}
    return [_of_champion(latest[end]) for end in sorted(latest)]


def _of_champion(evaluation: Artifact) -> dict[str, Any]:
    ends = [str(evaluation.properties.get(end, "")) for end in ("interval_start", "interval_end")]
    measured = [
        {"title": metric["title"], "value": metric["champion"]}
        for metric in metrics(evaluation)
        if metric["champion"] is not None
    ]
    return {"interval": ends, "metrics": measured}


def by_day(store: mlmd.MetadataStore, model: str, version: int) -> list[dict[str, Any]]:
    """The days on which a version answered requests, with figures and intervals as far as labels have come."""
    from runtime.lineage import versions

    quality = versions.label_quality(store, model)
    file = Path(quality.uri) / FILE if quality else None
    if file is None or not file.is_file():
        return []
    days = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        {
            "day": day["day"],
            "state": day["in_words"],
            "labelled": row["rows"],
            "figures": dict(sorted(row.get("figures", {}).items())),
        }
        for day in days
        for row in day["versions"]
        if row["version"] == version and not row["beside"]
    ]
