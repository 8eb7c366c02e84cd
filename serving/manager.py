"""Keeps what is served equal to what lies on disk: a new version is loaded before an old one goes, never after.

A look at a model reads its base path beside the event loop, compares it with what is served, and starts what is to be
loaded; it waits for no load. Each load runs in a thread of its own and ends with another look. So a load that takes
long, or never ends, holds up neither another model nor another version, and what a later look no longer wants is
abandoned.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airtight.errors import TerminalError
from serving import config, metrics, version_folders, warmup
from serving.config import ModelSettings, Settings
from serving.errors import Code, ServingError, invalid
from serving.load_threads import LoadThreads
from serving.loader import LoadedModel, load
from serving.scanning import Listing
from serving.version_folders import Folder
from serving.versions import Model, Registry, State, Version

logger = logging.getLogger(__name__)

RELOAD_S = 600.0
"""HandleReloadConfig waits so many seconds at most, and no longer than the client's deadline."""


@dataclass(eq=False, slots=True)
class _Watch:
    """What the manager knows of one model beside what is served.

    Args:
      listing: Its base path.
      looking: Held by the look that is under way.
      next: The look that has not begun.
      loads: What is being loaded, by version.
      tasks: Looks and loads.
      reached: Whether the last look ended with a version served that its settings want.
    """

    listing: Listing
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    next: asyncio.Task[None] | None = None
    loads: dict[int, _Load] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    reached: bool = False


@dataclass(eq=False, slots=True)
class _Load:
    version: Version
    task: asyncio.Task[None]


class Manager:
    """Loads and unloads.

    Args:
      settings: The server's settings.
      registry: What requests see; only the manager changes it.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.registry = registry
        self._configured = {model.name: model for model in settings.models}
        self._loading = LoadThreads(settings.num_load_threads)
        self._unloading = LoadThreads(settings.num_unload_threads)
        self._watches: dict[Model, _Watch] = {}
        self._going: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Looks at base paths and config file again and again, as often as is set; ends only by cancellation."""
        await asyncio.gather(
            self._again(self.settings.file_system_poll_wait_seconds, self._look_at_all),
            self._again(self.settings.config_poll_wait_seconds, self._reread_config),
        )

    async def _again(self, wait_s: float, look: Callable[[], Awaitable[object]]) -> None:
        reported = ""
        while True:
            await (asyncio.sleep(wait_s) if wait_s > 0 else asyncio.Event().wait())
            problem = ""
            try:
                await look()
            except (OSError, TerminalError) as error:
                # A look that fails (a folder that cannot be read now, a config file half edited) leaves all as it is.
                problem = str(error)
                if problem != reported:
                    logger.error("What is served was left as it is: %s", problem)
            reported = problem

    async def poll(self) -> None:
        """Looks at every base path once, and waits until what is to be served is loaded or has failed to load."""
        await self._settled((await self._look_at_all()).values())

    async def reload(self, models: tuple[ModelSettings, ...]) -> None:
        """Replaces the list of models, and their labels (HandleReloadConfig).

        Waits until the models that are new, or lie elsewhere, or serve other versions than before, have loaded.

        Raises:
          ServingError: INVALID_ARGUMENT, a relative base path; FAILED_PRECONDITION, a label names a version that is not
            served, and no label was changed; UNKNOWN, a model did not become available; DEADLINE_EXCEEDED, it has not
            yet. With the last two the new list holds all the same.
        """
        if self.settings.models_root:
            raise ServingError(Code.FAILED_PRECONDITION, "This server's models are the folders of --models_root")
        for model in models:
            if not model.base_path.is_absolute():
                raise invalid(
                    f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
                )
        self._check_labels(models, running_only=True)
        before = {name: (model.base_path, model.policy) for name, model in self._configured.items()}
        changed = {model.name for model in models if before.get(model.name) != (model.base_path, model.policy)}
        self._configured = {model.name: model for model in models}
        watches = await self._look_at_all()
        try:
            async with asyncio.timeout(RELOAD_S):
                await self._settled([watches[name] for name in changed])
        except TimeoutError as error:
            raise ServingError(Code.DEADLINE_EXCEEDED, f"The models have not loaded in {RELOAD_S:g} s") from error
        self._check_reached(changed)
        self._check_labels(models, running_only=False)
        for model in models:
            self.registry.models[model.name].labels = dict(model.labels)

    async def close(self) -> None:
        """Unloads everything; what is being loaded is abandoned."""
        for name in list(self.registry.models):
            self._remove(name)
        for watch in self._watches.values():
            for task in watch.tasks:
                task.cancel()
        await asyncio.gather(*self._going)

    def apply_labels(self) -> None:
        """Gives the configured labels. One whose version is not served stays where it was; a new one is NOT_FOUND."""
        for name, settings in self._configured.items():
            model = self.registry.models.get(name)
            if model is None:
                continue  # A list of models that a request has just given, and that nobody has looked at yet.
            held = {} if self.settings.allow_version_labels_for_unavailable_models else model.labels
            model.labels = {
                label: number if number in model.available else held.get(label, number)
                for label, number in settings.labels.items()
            }

    def _check_labels(self, models: tuple[ModelSettings, ...], running_only: bool) -> None:
        if self.settings.allow_version_labels_for_unavailable_models:
            return
        for settings in models:
            model = self.registry.models.get(settings.name)
            if model is None and running_only:
                continue
            for label, number in settings.labels.items():
                if model is None or number not in model.available:
                    raise ServingError(
                        Code.FAILED_PRECONDITION,
                        f"Request to assign label {label} to version {number} of model {settings.name}, "
                        "which is not currently available for inference",
                    )

    async def _reread_config(self) -> None:
        path = self.settings.model_config_file
        if path is None or (not self._configured and not path.exists()):
            return  # Whoever brings the first model writes it.
        models = await asyncio.to_thread(config.models_from_file, path)
        if models != tuple(self._configured.values()):
            self._configured = {model.name: model for model in models}
            await self._look_at_all()
        self.apply_labels()  # Also when the file is as it was: a version may have loaded since.

    def _wanted(self) -> dict[str, ModelSettings]:
        root = self.settings.models_root
        if root is None:
            return self._configured
        try:
            folders = [entry for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")]
        except FileNotFoundError:
            if self.registry.models:
                raise  # A root that goes away later (an unmounted disk) takes nothing with it.
            return {}
        return {
            entry.name: ModelSettings(entry.name, root / entry.name) for entry in sorted(folders, key=lambda e: e.name)
        }

    async def _look_at_all(self) -> dict[str, _Watch]:
        """Starts a look at every model; answers with what to wait for, by the model's name."""
        wanted = await asyncio.to_thread(self._wanted) if self.settings.models_root else self._configured
        for name in self.registry.models.keys() - wanted.keys():
            self._remove(name)
        watches = {}
        for name, settings in wanted.items():
            model = self.registry.models.setdefault(name, Model(settings))
            model.settings = settings
            watches[name] = self._look_at(model)
        return watches

    def _look_at(self, model: Model) -> _Watch:
        """Starts a look at a model, unless one waits that has not begun."""
        watch = self._watches.get(model)
        if watch is None:
            watch = self._watches[model] = _Watch(Listing(model.settings.base_path, versions_on_disk))
        if watch.next is None:
            watch.next = self._start(watch, self._look(model, watch))
        return watch

    def _start(self, watch: _Watch, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        watch.tasks.add(task)
        task.add_done_callback(watch.tasks.discard)
        return task

    async def _settled(self, watches: Iterable[_Watch]) -> None:
        """Waits until these models are neither looked at nor loaded."""
        for watch in watches:
            while watch.tasks:
                await asyncio.wait(watch.tasks)

    async def _look(self, model: Model, watch: _Watch) -> None:
        async with watch.looking:
            watch.next = None  # What changes from now on is for another look.
            watch.reached = False
            try:
                await self._reconcile(model, watch)
            except OSError as error:
                _report(model, f"The versions of {model.name} were left as they are: {error}")
            except Exception:
                # Whatever is wrong with one model is no fault of the others.
                logger.exception("The versions of %s were left as they are", model.name)

    async def _reconcile(self, model: Model, watch: _Watch) -> None:
        if watch.listing.base_path != model.settings.base_path:
            watch.listing = Listing(model.settings.base_path, versions_on_disk)
        refused = [number for number, version in model.versions.items() if version.refused is not None]
        served = [*model.available, *watch.loads]
        try:
            versions, files = await asyncio.to_thread(_read, watch.listing, served, refused)
            problem = "" if versions else version_folders.empty(model.name, model.settings.base_path)
        except FileNotFoundError as error:
            problem = version_folders.missing(model.name, model.settings.base_path)
            if model.available:
                # A base path that goes away later (an unmounted disk) takes nothing with it.
                raise FileNotFoundError(problem) from error
            versions, files = {}, {}
        _report(model, problem)
        if self.registry.models.get(model.name) is not model:
            return  # It was taken away meanwhile.
        # A version that does not load is left out, and the policy chooses again from the rest: the old one stays.
        broken = {number for number, seen in files.items() if seen == _refused(model, number)}
        wanted = model.settings.policy.choose(versions.keys() - broken)
        missing = {number for number in wanted if not _is_served(model, number, versions)}
        for number, loading in list(watch.loads.items()):
            if number not in missing or loading.version.identity != versions[number]:
                self._abandon(model, watch, number)
        for number in sorted(missing - watch.loads.keys()):
            self._start_load(model, watch, number, versions[number])
        watch.reached = bool(wanted - missing)
        if missing:
            # What is to be replaced answers until then; what has gone from the disk only while nothing else does.
            self._let_go(model, model.available.keys() - wanted - versions.keys() if watch.reached else set())
        elif wanted or not (versions or self.settings.servable_versions_always_present):
            self._let_go(model, model.available.keys() - wanted)
        # Else nothing that is wanted can be served: what answers is kept.
        for number in model.versions.keys() - versions.keys():
            if model.versions[number].state not in (State.UNLOADING, State.AVAILABLE):
                del model.versions[number]

    def _let_go(self, model: Model, going: set[int]) -> None:
        for label, number in model.settings.labels.items():
            # A label moves before the version goes that it was on, so that a request by label always has an answer.
            if model.labels.get(label) in going and number in model.available:
                model.labels[label] = number
        for number in going:
            self._retire(model, model.versions[number])

    def _start_load(self, model: Model, watch: _Watch, number: int, folder: Folder) -> None:
        version = Version(model.name, number, folder, State.LOADING)
        known = model.versions.get(number)
        if known is None or known.state != State.AVAILABLE:
            model.versions[number] = version
        watch.loads[number] = _Load(version, self._start(watch, self._bring_up(model, watch, version, folder)))

    def _abandon(self, model: Model, watch: _Watch, number: int) -> None:
        """Waits no longer for a load that is not wanted any more; what it loads is let go when it has."""
        loading = watch.loads.pop(number)
        loading.task.cancel()
        loading.version.state = State.END
        if model.versions.get(number) is loading.version:
            del model.versions[number]
        logger.info("Version %d of %s is not wanted any more: its load is abandoned", number, model.name)

    async def _bring_up(self, model: Model, watch: _Watch, version: Version, folder: Folder) -> None:
        """Loads one version beside the others and makes it available, or says why it is not."""
        number = version.number
        path = model.settings.base_path / folder.name
        logger.info("Loading version %d of %s from %s", number, model.name, path)
        try:
            version.loaded = await self._load(model, path, version)
        except ServingError as error:
            logger.error("Version %d of %s does not load and stays out: %s", number, model.name, error.message)
            version.state, version.error = State.END, error
            # The version itself, or the one that it was to replace.
            model.versions.setdefault(number, version).refused = version.files
        else:
            known = model.versions.get(number)
            version.state = State.AVAILABLE
            model.versions[number] = version
            model.changed()
            logger.info("Version %d of %s is available", number, model.name)
            if known is not None and known is not version and known.state == State.AVAILABLE:
                self._retire(model, known)
        del watch.loads[number]
        self._look_at(model)

    async def _load(self, model: Model, path: Path, version: Version) -> LoadedModel:
        read_in = functools.partial(_read_in, version, path, model.settings.base_path, self.settings)
        for attempts_left in range(self.settings.max_num_load_retries, -1, -1):
            started = time.perf_counter()
            try:
                loaded = await self._loading.run(read_in, discard=lambda loaded: loaded.close())
            except ServingError as error:
                metrics.LOADS.add(str(path), error.code.name)
                if not attempts_left:
                    raise
                logger.warning("%s; trying again in %g s", error.message, self.settings.load_retry_interval_s)
                await asyncio.sleep(self.settings.load_retry_interval_s)
            else:
                metrics.LOADS.add(str(path), "OK")
                metrics.LOAD_LATENCY.add(str(path), amount=int(1e6 * (time.perf_counter() - started)))
                return loaded
        raise AssertionError("the last attempt returns or raises")

    def _check_reached(self, names: Iterable[str]) -> None:
        """Refuses where a model serves no version that its settings want.

        Raises:
          ServingError: UNKNOWN, in TensorFlow Serving's words.
        """
        failed = []
        for name in sorted(names):
            model = self.registry.models.get(name)
            if model is None or not self._watches[model].reached:
                failed.append(_why_not(model, self._configured[name]) if model else name)
        if failed:
            listed = "".join(f"{{{reason}}}, " for reason in failed)
            raise ServingError(Code.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{listed}}}")

    def _retire(self, model: Model, version: Version) -> None:
        """Gives a version no more requests; it is unloaded, while all else goes on, when those that run have ended."""
        version.state = State.UNLOADING
        model.changed()
        task = asyncio.create_task(self._unload(version))
        self._going.add(task)
        task.add_done_callback(self._going.discard)

    async def _unload(self, version: Version) -> None:
        await version.drained()
        if version.loaded is not None:
            loaded, version.loaded = version.loaded, None
            await self._unloading.run(loaded.close)
        version.state = State.END
        logger.info("Version %d of %s is unloaded", version.number, version.model)

    def _remove(self, name: str) -> None:
        """Retires a model's versions; the first look after the last request has ended forgets the model."""
        model = self.registry.models[name]
        if watch := self._watches.get(model):
            for number in list(watch.loads):
                self._abandon(model, watch, number)
        for version in model.available.values():
            self._retire(model, version)
        if all(version.state != State.UNLOADING for version in model.versions.values()):
            del self.registry.models[name]
            self._watches.pop(model, None)


def _read(
    listing: Listing, served: Iterable[int], refused: Iterable[int]
) -> tuple[dict[int, Folder], dict[int, object]]:
    """What lies in a base path, and what the files of those versions look like that did not load."""
    versions = listing.versions(served)
    files = {number: fingerprint(listing.base_path / versions[number].name) for number in refused if number in versions}
    return versions, files


def _read_in(version: Version, path: Path, base_path: Path, settings: Settings) -> LoadedModel:
    # Before it is loaded: a repair that comes while it is being loaded is to be seen.
    version.files = fingerprint(path)
    return _load_warm(path, base_path, settings)


def _refused(model: Model, number: int) -> object:
    """What the files of a version looked like when they did not load, or None."""
    version = model.versions.get(number)
    return version.refused if version is not None else None


def _why_not(model: Model, settings: ModelSettings) -> str:
    """Why no version is served that is wanted, as TensorFlow Serving says it."""
    reasons = [
        f"name: {model.name} version: {number} due to error: {version.error.code.name}: {version.error.message}"
        for number, version in sorted(model.versions.items(), reverse=True)
        if version.error is not None
    ]
    return reasons[0] if reasons else f"name: {model.name}; no version to be served in base path {settings.base_path}"


def _load_warm(path: Path, base_path: Path, settings: Settings) -> LoadedModel:
    loaded: LoadedModel | None = None
    try:
        loaded = load(path, base_path, settings.workers, settings.max_model_bytes, settings.allow_ops)
        replayed = warmup.replay(loaded, path) if settings.enable_model_warmup else 0
    except Exception as error:
        if loaded is not None:
            loaded.close()
        if isinstance(error, ServingError):
            raise
        # Whatever a damaged model makes TensorFlow or NumPy raise: it is that version's fault alone.
        logger.exception("Loading %s", path)
        raise ServingError(Code.UNKNOWN, f"{type(error).__name__}: {error}") from error
    if replayed:
        logger.info("Replayed %d warm-up requests", replayed)
    return loaded


def _report(model: Model, problem: str) -> None:
    """Says in the log what is wrong with a model's base path, once for each change; empty where nothing is."""
    if problem and problem != model.problem:
        logger.warning("%s", problem)
    model.problem = problem


def versions_on_disk(base_path: Path) -> dict[int, Folder]:
    """The numeric folders of a base path and what each looks like.

    Names that are no numbers are ignored, so a publisher may copy under such a name and rename.

    Raises:
      FileNotFoundError: The base path is not there (yet).
    """
    folders = []
    for entry in list(os.scandir(base_path)):
        if version_folders.number_of(entry.name) is not None and entry.is_dir():
            seen = entry.stat()
            folders.append(Folder(entry.name, seen.st_ino, seen.st_mtime_ns))
    return version_folders.by_number(folders)


def fingerprint(path: Path) -> object:
    """What the files of a version look like: a broken one is tried again once this changes."""
    files = []
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                seen = os.lstat(os.path.join(folder, name))
            except FileNotFoundError:
                continue
            files.append((folder, name, seen.st_size, seen.st_mtime_ns))
    return tuple(sorted(files))


def _is_served(model: Model, number: int, found: Mapping[int, Folder]) -> bool:
    version = model.versions.get(number)
    return version is not None and version.state == State.AVAILABLE and version.identity == found[number]
