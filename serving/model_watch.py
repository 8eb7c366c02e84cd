"""Keeps what is served of one model equal to what lies in its base path.

A look reads the base path beside the event loop, compares it with what is served, and starts what is to be loaded; it
waits for no load, and not for a base path that does not answer. Each load ends with another look, as does a base path
that answers late. What a later look no longer wants is abandoned.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from serving import version_folders
from serving.config import Settings
from serving.errors import ServingError
from serving.file_reads import FileRead
from serving.load_threads import LoadThreads
from serving.scanning import Listing
from serving.version_folders import Folder
from serving.version_loader import VersionLoader
from serving.versions import Model, State, Version

logger = logging.getLogger(__name__)


_Seen = tuple[dict[int, Folder], dict[int, object]]


@dataclass(eq=False, slots=True)
class _Load:
    version: Version
    task: asyncio.Task[None]


class ModelWatch:
    """Looks at one model, and loads and retires its versions.

    Args:
      model: The model; its settings say what is wanted, and may change between two looks.
      loader: Loads and unloads.
      reads: The threads that read base paths.
      settings: The server's settings.
    """

    def __init__(self, model: Model, loader: VersionLoader, reads: LoadThreads, settings: Settings) -> None:
        self._model = model
        self._loader = loader
        self._settings = settings
        self._listing = _listing(model)
        self._read: FileRead[_Seen] = FileRead(reads, late=self.look)
        self._looking = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None
        self._loads: dict[int, _Load] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.reached = False
        """Whether the last look ended with a version served that the model's settings want."""

    def look(self) -> None:
        """Starts a look, unless one waits that has not begun."""
        if self._listing.base_path != self._model.settings.base_path:
            self._listing = _listing(self._model)
            self._read.cancel()  # Of another base path, which may never answer.
        if self._next is None:
            self._next = self._start(self._look())

    async def settled(self) -> None:
        """Waits until the model is neither looked at nor loaded."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def end(self) -> None:
        """Ends looks and loads; what is served stays."""
        self._read.cancel()
        for number in list(self._loads):
            self._abandon(number)
        for task in self._tasks:
            task.cancel()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _look(self) -> None:
        model = self._model
        async with self._looking:
            self._next = None  # What changes from now on is for another look.
            self.reached = False
            try:
                await self._reconcile()
            except OSError as error:
                _report(model, f"The versions of {model.name} were left as they are: {error}")
            except Exception:
                # Whatever is wrong with one model is no fault of the others.
                logger.exception("The versions of %s were left as they are", model.name)

    async def _reconcile(self) -> None:
        model = self._model
        refused = [number for number, version in model.versions.items() if version.refused is not None]
        served = [*model.available, *self._loads]
        try:
            read = functools.partial(_read, self._listing, served, refused)
            versions, files = await self._read.result(read, str(model.settings.base_path))
            problem = "" if versions else version_folders.empty(model.name, model.settings.base_path)
        except FileNotFoundError as error:
            problem = version_folders.missing(model.name, model.settings.base_path)
            if model.available:
                # A base path that goes away later (an unmounted disk) takes nothing with it.
                raise FileNotFoundError(problem) from error
            versions, files = {}, {}
        _report(model, problem)
        # A version that does not load is left out, and the policy chooses again from the rest: the old one stays.
        broken = _broken(model, files)
        wanted = model.settings.policy.choose(versions.keys() - broken)
        missing = {number for number in wanted if not _is_served(model, number, versions)}
        for number, loading in list(self._loads.items()):
            if number not in missing or loading.version.identity != versions[number]:
                self._abandon(number)
        for number in sorted(missing - self._loads.keys()):
            self._start_load(number, versions[number])
        self.reached = bool(wanted - missing)
        if missing:
            # What is to be replaced answers until then; what has gone from the disk only while nothing else does.
            self._let_go(model.available.keys() - wanted - versions.keys() if self.reached else set())
        elif wanted or not (versions or self._settings.servable_versions_always_present):
            self._let_go(model.available.keys() - wanted)
        # Else nothing that is wanted can be served: what answers is kept.
        for number in model.versions.keys() - versions.keys():
            if model.versions[number].state not in (State.UNLOADING, State.AVAILABLE):
                del model.versions[number]

    def _let_go(self, going: set[int]) -> None:
        model = self._model
        for label, number in model.settings.labels.items():
            # A label moves before the version goes that it was on, so that a request by label always has an answer.
            if model.labels.get(label) in going and number in model.available:
                model.labels[label] = number
        for number in going:
            self._loader.retire(model, model.versions[number])

    def _start_load(self, number: int, folder: Folder) -> None:
        model = self._model
        version = Version(model.name, number, folder, State.LOADING)
        known = model.versions.get(number)
        if known is None or known.state != State.AVAILABLE:
            model.versions[number] = version
        self._loads[number] = _Load(version, self._start(self._bring_up(version, folder)))

    def _abandon(self, number: int) -> None:
        """Waits no longer for a load that is not wanted any more; what it loads is let go when it has."""
        model = self._model
        loading = self._loads.pop(number)
        loading.task.cancel()
        loading.version.state = State.END
        if model.versions.get(number) is loading.version:
            del model.versions[number]
        logger.info("Version %d of %s is not wanted any more: its load is abandoned", number, model.name)

    async def _bring_up(self, version: Version, folder: Folder) -> None:
        """Loads one version beside the others and makes it available, or says why it is not."""
        model = self._model
        number = version.number
        path = model.settings.base_path / folder.name
        logger.info("Loading version %d of %s from %s", number, model.name, path)
        try:
            version.loaded = await self._loader.load(version, path, model.settings.base_path)
        except ServingError as error:
            logger.error("Version %d of %s does not load and stays out: %s", number, model.name, error.message)
            version.state, version.error = State.END, error
            # The version itself, or the one that it was to replace.
            model.versions.setdefault(number, version).refused = version.files
            if version.files is None:  # Its files were not even looked at: it is tried again in the ordinary course.
                del self._loads[number]
                return
        else:
            known = model.versions.get(number)
            version.state = State.AVAILABLE
            model.versions[number] = version
            model.changed()
            # At once, for nobody need come back to it: who gave the label may have gone.
            model.labels |= {label: number for label, wanted in model.settings.labels.items() if wanted == number}
            logger.info("Version %d of %s is available", number, model.name)
            if known is not None and known is not version and known.state == State.AVAILABLE:
                self._loader.retire(model, known)
        del self._loads[number]
        self.look()


def _listing(model: Model) -> Listing:
    return Listing(model.settings.base_path, version_folders.versions_on_disk)


def _read(listing: Listing, served: Iterable[int], refused: Iterable[int]) -> _Seen:
    """What lies in a base path, and what the files of those versions look like that did not load."""
    versions = listing.versions(served)
    files = {
        number: version_folders.fingerprint(listing.base_path / versions[number].name)
        for number in refused
        if number in versions
    }
    return versions, files


def _broken(model: Model, files: Mapping[int, object]) -> set[int]:
    """The versions that did not load and whose files have not changed since.

    Args:
      model: The model.
      files: What the files of refused versions looked like in this look. A version that was refused while the base path
        was read is not in it; the look that follows its load tells whether it has changed.
    """
    return {
        number
        for number, version in model.versions.items()
        if version.refused is not None and files.get(number, version.refused) == version.refused
    }


def _report(model: Model, problem: str) -> None:
    """Says in the log what is wrong with a model's base path, once for each change; empty where nothing is."""
    if problem and problem != model.problem:
        logger.warning("%s", problem)
    model.problem = problem


def _is_served(model: Model, number: int, folders: Mapping[int, Folder]) -> bool:
    version = model.versions.get(number)
    return version is not None and version.state == State.AVAILABLE and version.identity == folders[number]
