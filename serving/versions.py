"""What is served now: models, versions and states. The event loop's thread alone touches it, so it needs no locks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving.config import ModelSettings
from serving.errors import Code, ServingError, invalid
from serving.loader import LoadedModel

State = ModelVersionStatus.State


@dataclass(eq=False, slots=True)
class Version:
    """One version of a model, from the moment it is seen on disk.

    Args:
      model: The model's name.
      number: The version.
      identity: What its folder looked like when it was loaded; another look means another version of the same number.
      state: TensorFlow Serving's state.
      error: Why it did not load, or None.
      files: What its files looked like before it was loaded.
      refused: What the files under its number looked like when they did not load, or None.
      loaded: The SavedModel while it is in memory.
      in_flight: Requests that run on it now.
      idle: Set while no request runs on it.
    """

    model: str
    number: int
    identity: object
    state: int = State.START
    error: ServingError | None = None
    files: object = None
    refused: object = None
    loaded: LoadedModel | None = None
    in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> LoadedModel:
        self.in_flight += 1
        assert self.loaded is not None, "only available versions are handed out"
        return self.loaded

    def __exit__(self, *unused: object) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self.idle.set()

    async def drained(self) -> None:
        """Waits until the requests that began on this version have ended."""
        while self.in_flight:
            self.idle.clear()
            await self.idle.wait()


class Model:
    """One model and its versions.

    Args:
      settings: Where it lies and which versions are served.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.labels: dict[str, int] = {}
        self.versions: dict[int, Version] = {}
        self.latest: Version | None = None
        self.problem = ""  # With its base path, as the log was told.

    @property
    def name(self) -> str:
        """Its name in requests."""
        return self.settings.name

    @property
    def available(self) -> dict[int, Version]:
        """The versions that answer requests."""
        return {number: v for number, v in self.versions.items() if v.state == State.AVAILABLE}

    def changed(self) -> None:
        """Recomputes what requests without a version get; called after each change of state."""
        available = self.available
        self.latest = available[max(available)] if available else None


class Registry:
    """All models, by name."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}

    def resolve(self, name: str, version: int | None = None, label: str | None = None) -> Version:
        """Finds the version that answers a request.

        Raises:
          ServingError: NOT_FOUND for a model or version that is not available, INVALID_ARGUMENT for an unknown label.
        """
        model = self.models.get(name)
        if label is not None:
            version = self._labelled(name, label)
        if version is None:
            if model is not None and model.latest is not None:
                return model.latest
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: Latest({name})")
        available = model.versions.get(version) if model else None
        if available is None or available.state != State.AVAILABLE:
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: Specific({name}, {version})")
        return available

    def _labelled(self, name: str, label: str) -> int:
        model = self.models.get(name)
        if model is None or label not in model.labels:
            raise invalid(f"Unrecognized servable version label: {label}")
        return model.labels[label]

    def states(self, name: str, version: int | None = None, label: str | None = None) -> list[Version]:
        """All versions of a model that are known, the highest first; or one of them.

        Raises:
          ServingError: NOT_FOUND for a model or version that is not known, INVALID_ARGUMENT for an unknown label.
        """
        if label is not None:
            version = self._labelled(name, label)
        model = self.models.get(name)
        if model is None or not model.versions:
            raise ServingError(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        if version is None:
            return [model.versions[number] for number in sorted(model.versions, reverse=True)]
        if version not in model.versions:
            raise ServingError(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
        return [model.versions[version]]
