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

    Each is given once, by the folder that is its own, also where it has several names or others import it.

    Args:
      folder: Of the package `pipelines`.
    """
    for file in sorted(folder.glob("*/settings.py")):
        package = f"pipelines.{file.parent.name}"
        try:
            held = vars(load_module(f"{package}.settings")).values()
        except Exception as error:  # noqa: BLE001 - a pipeline's code raises what it likes, and others go on
            log.warning("%s.settings cannot be imported, so nothing of it is taken: %s", package, error)
            continue
        own = (settings for settings in held if isinstance(settings, Supervised) and settings.package == package)
        yield from {id(settings): settings for settings in own}.values()


def online_routes() -> list[tuple[str, str, str]]:
    """Route, model and import string of each route whose features a pipeline's code fills in (`Supervised.online`)."""
    return [
        (route, settings.name, code)
        for settings in declared_settings()
        for route, code in sorted(settings.online.items())
    ]
