"""What the settings of all pipelines of `pipelines/` declare, for services that many pipelines share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from airtight.home import ROOT
from airtight.import_string import load_module
from airtight.supervised import Supervised

log = logging.getLogger(__name__)


def declared_settings(folder: Path = ROOT / "pipelines") -> Iterator[Supervised]:
    """The settings of each pipeline, by the folders' names; those that cannot be imported are left out with a warning.

    Args:
      folder: Of the package `pipelines`.
    """
    for file in sorted(folder.glob("*/settings.py")):
        module = f"pipelines.{file.parent.name}.settings"
        try:
            held = vars(load_module(module)).values()
        except Exception as error:  # noqa: BLE001 - a pipeline's code raises what it likes, and others go on
            log.warning("%s cannot be imported, so nothing of it is taken: %s", module, error)
            continue
        yield from (settings for settings in held if isinstance(settings, Supervised))


def online_routes() -> list[str]:
    """NAME=MODEL=MODULE:ATTRIBUTE of each route whose features a pipeline's code fills in (`Supervised.online`)."""
    return [
        f"{route}={settings.name}={code}"
        for settings in declared_settings()
        for route, code in sorted(settings.online.items())
    ]
