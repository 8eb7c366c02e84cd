"""The models of `--models_root`: each sub-folder is one, and so is each link to a folder.

Where a link leads may be a file system that does not answer. Each link is looked at by itself, so that the folders
beside it, and other links, are models all the same.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import stat
from pathlib import Path

from serving.config import ModelSettings
from serving.file_reads import PATIENCE_S, FileRead
from serving.load_threads import LoadThreads

logger = logging.getLogger(__name__)


class ModelsRoot:
    """Finds models.

    Args:
      root: The folder of models.
      reads: The threads that read it.
    """

    def __init__(self, root: Path, reads: LoadThreads) -> None:
        self._root = root
        self._reads = reads
        self._listing: FileRead[tuple[list[str], list[str]]] = FileRead(reads)
        self._links: dict[str, _Link] = {}

    async def models(self) -> dict[str, ModelSettings]:
        """The models that are there now. A link that fails counts as it last did, and a new one not yet.

        Raises:
          FileNotFoundError: The root is not there.
          TimeoutError: The root does not answer.
        """
        folders, links = await self._listing.result(functools.partial(_list, self._root), str(self._root))
        for name in self._links.keys() - set(links):
            self._links.pop(name).cancel()
        looks = [self._links.setdefault(name, _Link(self._root / name, self._reads)) for name in links]
        answers = await asyncio.gather(*(link.is_folder() for link in looks))
        folders += [name for name, is_folder in zip(links, answers, strict=True) if is_folder]
        return {name: ModelSettings(name, self._root / name) for name in sorted(folders)}


class _Link:
    def __init__(self, path: Path, reads: LoadThreads) -> None:
        self._path = path
        self._read: FileRead[bool] = FileRead(reads)
        self._is_folder = self._fails = False
        self.cancel = self._read.cancel

    async def is_folder(self) -> bool:
        """Whether it leads to a folder, or did when it last answered."""
        try:
            look = functools.partial(_is_folder, self._path)
            self._is_folder = await self._read.result(look, str(self._path), PATIENCE_S)
            self._fails = False
        except OSError as error:  # It does not answer, or the file system that it leads to has gone.
            if not self._fails:
                logger.warning("A link in the folder of models is taken as it last was: %s", error)
            self._fails = True
        return self._is_folder


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _list(root: Path) -> tuple[list[str], list[str]]:
    """The names of folders, and those of links. Hidden ones are left out."""
    entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return folders, [entry.name for entry in entries if entry.is_symlink()]
