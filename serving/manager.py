"""Keeps what is served equal to what lies on disk: a new version is loaded before an old one goes, never after.

The manager knows which models are to be served and when to look at them; each has a watch of its own. So a load that
takes long, or never ends, holds up neither another model nor another version.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from airtight.errors import TerminalError
from serving import config
from serving.config import ModelSettings, Settings
from serving.errors import Code, ServingError, invalid
from serving.file_reads import FileRead, read_threads
from serving.model_watch import ModelWatch
from serving.models_root import ModelsRoot
from serving.version_loader import VersionLoader
from serving.versions import Model, Registry, State

logger = logging.getLogger(__name__)

RELOAD_S = 600.0
"""HandleReloadConfig waits so many seconds at most, and no longer than the client's deadline."""


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
        self._owed: set[str] = set()  # The models that a reload changed, and that have not become available since.
        self._loader = VersionLoader(settings)
        self._watches: dict[Model, ModelWatch] = {}
        self._reads = read_threads()
        self._root = ModelsRoot(settings.models_root, self._reads) if settings.models_root else None
        self._config: FileRead[tuple[ModelSettings, ...] | None] = FileRead(self._reads)

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
        try:
            watches = await self._look_at_all()
        except TimeoutError as error:
            logger.error("There are no models yet: %s", error)
            return
        for watch in watches.values():
            await watch.settled()

    async def reload(self, models: tuple[ModelSettings, ...]) -> None:
        """Replaces the list of models, and their labels (HandleReloadConfig).

        Waits until the models that are new, or lie elsewhere, or serve other versions than before, have loaded.

        Raises:
          ServingError: INVALID_ARGUMENT, a relative base path; FAILED_PRECONDITION, a label names a version that is not
            served, and no label of the models that are changed was given; UNKNOWN, a model did not become
            available; DEADLINE_EXCEEDED, it has not yet; ABORTED, another list came meanwhile, and holds. With UNKNOWN
            and DEADLINE_EXCEEDED this list holds all the same, and the same call again waits for the same models.
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
        changed = {
            model.name
            for model in models
            if before.get(model.name) != (model.base_path, model.policy) or model.name in self._owed
        }
        self._owed = changed
        ours = self._configured = {model.name: model for model in models}
        watches = await self._look_at_all()
        for model in models:
            if model.name not in changed:  # Nobody waits for these, nor they for others.
                self.registry.models[model.name].labels = dict(model.labels)
        try:
            async with asyncio.timeout(RELOAD_S):
                for name in changed:
                    await watches[name].settled()
        except TimeoutError as error:
            self._check_current(ours)
            self.apply_labels()
            raise ServingError(Code.DEADLINE_EXCEEDED, f"The models have not loaded in {RELOAD_S:g} s") from error
        except asyncio.CancelledError:  # Nobody waits any longer; what was asked for holds.
            if self._configured is ours:
                self.apply_labels()
            raise
        self._check_current(ours)
        self._owed = {name for name in changed if not watches[name].reached}
        if self._owed:
            self.apply_labels()
            raise self._not_available(self._owed)
        self._check_labels(models, running_only=False)
        for model in models:
            self.registry.models[model.name].labels = dict(model.labels)

    async def close(self) -> None:
        """Unloads everything; what is being loaded is abandoned."""
        for name in list(self.registry.models):
            self._remove(name)
        await self._loader.unloaded()

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
        if path is None:
            return
        read = functools.partial(_models_in_file, path, wait_for_it=not self._configured)
        models = await self._config.result(read, str(path))
        if models is not None and models != tuple(self._configured.values()):
            self._configured = {model.name: model for model in models}
            await self._look_at_all()
        self.apply_labels()  # Also when the file is as it was: a version may have loaded since.

    async def _wanted(self) -> dict[str, ModelSettings]:
        if self._root is None:
            return self._configured
        try:
            return await self._root.models()
        except FileNotFoundError:
            if self.registry.models:
                raise  # A root that goes away later (an unmounted disk) takes nothing with it.
            return {}
        except TimeoutError:  # What is known of it may answer all the same.
            for watch in self._watches.values():
                watch.look()
            raise

    async def _look_at_all(self) -> dict[str, ModelWatch]:
        """Starts a look at every model; answers with what to wait for, by the model's name."""
        wanted = await self._wanted()
        for name in self.registry.models.keys() - wanted.keys():
            self._remove(name)
        watches = {}
        for name, settings in wanted.items():
            model = self.registry.models.setdefault(name, Model(settings))
            model.settings = settings
            watch = self._watches.get(model)
            if watch is None:
                watch = self._watches[model] = ModelWatch(model, self._loader, self._reads, self.settings)
            watch.look()
            watches[name] = watch
        return watches

    def _check_current(self, models: dict[str, ModelSettings]) -> None:
        """Refuses where another list has taken this one's place.

        Raises:
          ServingError: ABORTED.
        """
        if self._configured is not models:
            raise ServingError(Code.ABORTED, "Another list of models came meanwhile")

    def _not_available(self, names: Iterable[str]) -> ServingError:
        """That these models serve no version that their settings want, in TensorFlow Serving's words."""
        failed = [_why_not(self.registry.models[name], self._configured[name]) for name in sorted(names)]
        listed = "".join(f"{{{reason}}}, " for reason in failed)
        return ServingError(Code.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{listed}}}")

    def _remove(self, name: str) -> None:
        """Retires a model's versions; the first look after the last request has ended forgets the model."""
        model = self.registry.models[name]
        if watch := self._watches.pop(model, None):
            watch.end()  # A look that is under way would load again what is taken away.
        for version in model.available.values():
            self._loader.retire(model, version)
        if all(version.state != State.UNLOADING for version in model.versions.values()):
            del self.registry.models[name]


def _why_not(model: Model, settings: ModelSettings) -> str:
    """Why no version is served that is wanted, as TensorFlow Serving says it."""
    reasons = [
        f"name: {model.name} version: {number} due to error: {version.error.code.name}: {version.error.message}"
        for number, version in sorted(model.versions.items(), reverse=True)
        if version.error is not None
    ]
    problem = model.problem or f"no version to be served in base path {settings.base_path}"
    return reasons[0] if reasons else f"name: {model.name}; {problem}"


def _models_in_file(path: Path, *, wait_for_it: bool) -> tuple[ModelSettings, ...] | None:
    """What a config file lists; None where it is not there and may come: whoever brings the first model writes it."""
    return None if wait_for_it and not path.exists() else config.models_from_file(path)
