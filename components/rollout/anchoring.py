"""The anchor of an act in the audit log, as custom properties of the act's artifact."""

from __future__ import annotations

from tfx.types import artifact

from airtight.audit.chain import Anchor


def anchor_in(made: artifact.Artifact, anchor: Anchor | None) -> None:
    """Has an artifact name the line of the audit log that tells of it; None for an act that no log has."""
    for name, value in anchor.properties.items() if anchor else ():
        set_property = made.set_int_custom_property if isinstance(value, int) else made.set_string_custom_property
        set_property(name, value)
