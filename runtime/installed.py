"""What a process has imported of installed distributions and of the project, and whether it is still what is there."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from airtight import fingerprint
from airtight.home import ROOT

OWN = ("airtight", "runtime")
"""The packages of the project that the launcher imports for its nodes."""
_SUFFIXES = (".dist-info", ".egg-info")


@dataclass(frozen=True)
class Imported:
    """What a process imported from installed distributions.

    Args:
      versions: The version of each distribution at the time of its import, by normalized name.
      folders: The metadata folder of each, by normalized name, and what identifies it: inode and time of change.
      sources: Every source file of the project's packages `OWN`, and what identifies it.
    """

    versions: dict[str, str]
    folders: dict[str, tuple[Path, tuple[int, int]]]
    sources: dict[Path, tuple[int, int]]

    @classmethod
    def by(cls, modules: Iterable[str]) -> Imported:
        """Imports modules and notes every distribution that this process has imported by then.

        Args:
          modules: Dotted names.
        """
        # Taken first: an upgrade that overlaps with the imports must count as a change.
        installed = {name: (folder, _identity(folder)) for name, folder in _metadata_folders().items()}
        sources = _sources()
        for name in modules:
            importlib.import_module(name)
        owners = importlib.metadata.packages_distributions()
        packages = {name.partition(".")[0] for name in sys.modules}
        names = sorted({fingerprint.normalized(d) for package in packages for d in owners.get(package, ())})
        folders = {name: installed[name] for name in names if name in installed}
        return cls(fingerprint.versions(names), folders, sources)

    def changes(self) -> list[str]:
        """Says of each distribution that was upgraded, reinstalled or removed since the import what changed."""
        changed = {name: folder for name, (folder, was) in self.folders.items() if _identity(folder) != was}
        installed = _metadata_folders() if changed else {}
        return [
            f"{folder.name} was imported, {installed[name].name if name in installed else 'nothing'} is installed"
            for name, folder in changed.items()
        ]

    def forget_changed_code(self) -> None:
        """Has this process import the project's own modules anew if one of their files changed since their import."""
        if _sources() != self.sources:
            for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
                del sys.modules[name]


def _sources() -> dict[Path, tuple[int, int]]:
    return {path: _identity(path) for package in OWN for path in (ROOT / package).rglob("*.py")}


def _metadata_folders() -> dict[str, Path]:
    """Gives the metadata folder of every distribution that can be imported, by normalized name."""
    folders: dict[str, Path] = {}
    for folder in map(Path, sys.path):
        # Not every entry is a folder that is there.
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if path.suffix in _SUFFIXES:
                    folders.setdefault(fingerprint.normalized(path.stem.partition("-")[0]), path)
    return folders


def _identity(folder: Path) -> tuple[int, int]:
    """Tells one installation from another, of the same version too; (0, 0) for one that cannot be looked at."""
    try:
        status = folder.stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns
