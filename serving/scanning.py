"""What lies in a base path, read again only when it may have changed.

A version that comes, goes or is replaced changes the base path's own modification time, because publishers rename a
folder into it. So a folder whose times are those of the last reading is not read again. Two exceptions make that safe:
a reading that began within `COARSE_S` of the last change is repeated, because a file system may give the next change
the same time; and every `FULL_S` the folder is read whatever its times say. The versions that are served are looked at
each time: their own folders may change without the base path.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from serving.version_folders import Folder

COARSE_S = 5.0
"""Longer than the modification times of any file system in use are coarse (FAT has 2 s, NFS caches for 3 s)."""
FULL_S = 60.0


class Listing:
    """The versions in one base path.

    Args:
      base_path: The folder.
      read: Reads all of it: what each version's folder looks like, by number.
    """

    def __init__(self, base_path: Path, read: Callable[[Path], dict[int, Folder]]) -> None:
        self.base_path = base_path
        self._read = read
        self._versions: dict[int, Folder] = {}
        self._times: tuple[int, ...] | None = None
        self._read_at = 0.0

    def versions(self, served: Iterable[int]) -> dict[int, Folder]:
        """What each version's folder looks like, by number.

        Args:
          served: The versions whose folders are looked at in any case.

        Raises:
          FileNotFoundError: The base path is not there (yet).
        """
        folder = os.stat(self.base_path)
        times = (folder.st_dev, folder.st_ino, folder.st_mtime_ns, folder.st_ctime_ns)
        now = time.time()
        if times == self._times and 0 <= now - self._read_at < FULL_S and self._look_again(served):
            return dict(self._versions)
        self._times = None
        self._versions = self._read(self.base_path)
        if now - max(folder.st_mtime, folder.st_ctime) > COARSE_S:
            self._times, self._read_at = times, now
        return dict(self._versions)

    def _look_again(self, served: Iterable[int]) -> bool:
        """Looks at the folders of these versions; False where one has gone."""
        for number in self._versions.keys() & set(served):
            name = self._versions[number].name
            try:
                seen = os.stat(self.base_path / name)
            except FileNotFoundError:
                return False
            self._versions[number] = Folder(name, seen.st_ino, seen.st_mtime_ns)
        return True
