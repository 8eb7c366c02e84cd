"""The artifact types that TFX's standard ones do not cover. Every one carries the interval it speaks of."""

from typing import ClassVar

from tfx.types.artifact import Artifact, Property, PropertyType

_INTERVAL = {
    "interval_start": Property(type=PropertyType.STRING),
    "interval_end": Property(type=PropertyType.STRING),
}


class Dataset(Artifact):
    """What one run reads from the lake: `manifest.json`, naming immutable files and their digests."""

    TYPE_NAME = "Dataset"
    PROPERTIES: ClassVar[dict[str, Property]] = {
        **_INTERVAL,
        "rows": Property(type=PropertyType.INT),
        "digest": Property(type=PropertyType.STRING),
    }


class ValidationReport(Artifact):
    """What Great Expectations found: `verdict.json`, `report.json`, `report.html`."""

    TYPE_NAME = "ValidationReport"
    PROPERTIES: ClassVar[dict[str, Property]] = {**_INTERVAL, "passed": Property(type=PropertyType.INT)}


class DriftReport(Artifact):
    """How the interval differs from the training reference: `verdict.json`, `report.html`."""

    TYPE_NAME = "DriftReport"
    PROPERTIES: ClassVar[dict[str, Property]] = {**_INTERVAL, "drifted": Property(type=PropertyType.INT)}
