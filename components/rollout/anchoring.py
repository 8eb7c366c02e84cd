"""What steps need to write an act into the audit log: digests of versions, and anchors in artifacts."""

from __future__ import annotations

from tfx.types import artifact

from airtight.audit.chain import Anchor
from airtight.files import digest_of_tree
from components.modelling.served import Served


def anchor_in(made: artifact.Artifact, anchor: Anchor | None) -> None:
    """Has an artifact name the line of the audit log that tells of it; None for an act that no log has."""
    for name, value in anchor.properties.items() if anchor else ():
        set_property = made.set_int_custom_property if isinstance(value, int) else made.set_string_custom_property
        set_property(name, value)


def digest_of(served: Served, model: str, version: int) -> str:
    """SHA-256 of a version's files as they lie there now; "" where it is gone."""
    folder = served.root / model / str(version)
    return digest_of_tree(folder) if folder.is_dir() else ""
