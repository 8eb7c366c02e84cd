"""Keeps what is served equal to what lies on disk: a new version is loaded before an old one goes, never after."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airtight.errors import TerminalError
from serving import config, metrics, version_folders, warmup
from serving.config import ModelSettings, Settings
from serving.errors import Code, ServingError
from serving.loader import LoadedModel, load
from serving.version_folders import Folder
from serving.versions import Model, Registry, State, Version

logger = logging.getLogger(__name__)


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
        # One thread: loading takes the processor from the requests, so versions are loaded one after the other.
        self._loader = ThreadPoolExecutor(1, "load")
        self._lock = asyncio.Lock()
        self._going: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Looks at base paths and config file again and again, as often as is set; ends only by cancellation."""
        await asyncio.gather(
            self._again(self.settings.file_system_poll_wait_seconds, self.poll),
            self._again(self.settings.config_poll_wait_seconds, self._reread_config),
        )

    async def _again(self, wait_s: float, look: Callable[[], Awaitable[None]]) -> None:
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
        """Looks at every base path once and brings each model to what it says."""
        async with self._lock:
            wanted = await asyncio.to_thread(self._wanted)
            for name in self.registry.models.keys() - wanted.keys():
                self._remove(name)
            for name, settings in wanted.items():
                model = self.registry.models.setdefault(name, Model(settings))
                model.settings = settings
                try:
                    await self._reconcile(model)
                except OSError as error:
                    _report(model, f"The versions of {name} were left as they are: {error}")
                except Exception:
                    # Whatever is wrong with one model is no fault of the others.
                    logger.exception("The versions of %s were left as they are", name)

    async def reload(self, models: tuple[ModelSettings, ...]) -> None:
        """Replaces the list of models, and their labels (HandleReloadConfig).

        Raises:
          ServingError: FAILED_PRECONDITION, a label names a version that is not served; no label was changed.
        """
        if self.settings.models_root:
            raise ServingError(Code.FAILED_PRECONDITION, "This server's models are the folders of --models_root")
        self._check_labels(models, running_only=True)
        self._configured = {model.name: model for model in models}
        await self.poll()
        self._check_labels(models, running_only=False)
        for model in models:
            self.registry.models[model.name].labels = dict(model.labels)

    async def close(self) -> None:
        """Unloads everything."""
        async with self._lock:
            for name in list(self.registry.models):
                self._remove(name)
            await asyncio.gather(*self._going)
        self._loader.shutdown()

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
            await self.poll()
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

    async def _reconcile(self, model: Model) -> None:
        try:
            found = await asyncio.to_thread(versions_on_disk, model.settings.base_path)
            problem = "" if found else version_folders.empty(model.name, model.settings.base_path)
        except FileNotFoundError as error:
            problem = version_folders.missing(model.name, model.settings.base_path)
            if model.available:
                # A base path that goes away later (an unmounted disk) takes nothing with it.
                raise FileNotFoundError(problem) from error
            found = {}
        _report(model, problem)
        broken: set[int] = set()
        while True:
            # A version that does not load is left out, and the policy chooses again from the rest: the old one stays.
            wanted = model.settings.policy.choose(found.keys() - broken)
            missing = sorted(number for number in wanted if not _is_served(model, number, found))
            if not missing:
                break
            if not await self._bring_up(model, missing[0], found):
                broken.add(missing[0])
        if found and not wanted:
            return  # Nothing that is wanted can be served: keep what answers.
        if not found and self.settings.servable_versions_always_present:
            return
        going = model.available.keys() - wanted
        for label, number in model.settings.labels.items():
            # A label moves before the version goes that it was on, so that a request by label always has an answer.
            if model.labels.get(label) in going and number in model.available:
                model.labels[label] = number
        for number in going:
            self._retire(model, model.versions[number])
        for number in model.versions.keys() - found.keys():
            if model.versions[number].state != State.UNLOADING:
                del model.versions[number]

    async def _bring_up(self, model: Model, number: int, found: Mapping[int, Folder]) -> bool:
        """Loads one version beside the others and makes it available; False when it does not load."""
        path = model.settings.base_path / found[number].name
        known = model.versions.get(number)
        # Before it is loaded: a repair that comes while it is being loaded is to be seen.
        files = await asyncio.to_thread(fingerprint, path)
        if known is not None and known.refused == files:
            return False
        version = Version(model.name, number, found[number], State.LOADING)
        if known is None or known.state != State.AVAILABLE:
            model.versions[number] = version
        logger.info("Loading version %d of %s from %s", number, model.name, path)
        try:
            version.loaded = await self._load(model, path)
        except ServingError as error:
            logger.error("Version %d of %s does not load and stays out: %s", number, model.name, error.message)
            version.state, version.error = State.END, error
            model.versions[number].refused = files  # The version itself, or the one that it was to replace.
            return False
        version.state = State.AVAILABLE
        model.versions[number] = version
        model.changed()
        logger.info("Version %d of %s is available", number, model.name)
        if known is not None and known.state == State.AVAILABLE:
            self._retire(model, known)
        return True

    async def _load(self, model: Model, path: Path) -> LoadedModel:
        loop = asyncio.get_running_loop()
        for attempts_left in range(self.settings.max_num_load_retries, -1, -1):
            started = time.perf_counter()
            try:
                loaded = await loop.run_in_executor(
                    self._loader, _load_warm, path, model.settings.base_path, self.settings
                )
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
            await asyncio.get_running_loop().run_in_executor(self._loader, loaded.close)
        version.state = State.END
        logger.info("Version %d of %s is unloaded", version.number, version.model)

    def _remove(self, name: str) -> None:
        """Retires a model's versions; the first look after the last request has ended forgets the model."""
        model = self.registry.models[name]
        for version in model.available.values():
            self._retire(model, version)
        if all(version.state != State.UNLOADING for version in model.versions.values()):
            del self.registry.models[name]


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
