"""Loads and unloads versions beside the event loop, each in a thread of its own."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from pathlib import Path

from serving import metrics, version_folders, warmup
from serving.config import Settings
from serving.errors import Code, ServingError
from serving.load_threads import LoadThreads
from serving.loader import LoadedModel, load
from serving.versions import Model, State, Version

logger = logging.getLogger(__name__)


class VersionLoader:
    """Loads and unloads versions of all models, as many at the same time as the settings say.

    Args:
      settings: The server's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loading = LoadThreads(settings.num_load_threads, "load")
        self._unloading = LoadThreads(settings.num_unload_threads, "unload")
        self._going: set[asyncio.Task[None]] = set()

    async def load(self, version: Version, path: Path, base_path: Path) -> LoadedModel:
        """Loads a version, as often as is set while it does not load.

        Args:
          version: The version; gets the look of its files from before it is loaded.
          path: Its folder.
          base_path: The model's base path.

        Raises:
          ServingError: The last attempt failed.
        """
        read_in = functools.partial(_read_in, version, path, base_path, self._settings)
        for attempts_left in range(self._settings.max_num_load_retries, -1, -1):
            started = time.perf_counter()
            try:
                loaded = await self._loading.run(read_in, discard=lambda loaded: loaded.close())
            except Exception as raised:  # noqa: BLE001
                # Whatever a damaged model makes TensorFlow or NumPy raise: it is that version's fault alone.
                error = _serving_error(raised, path)
            else:
                metrics.LOADS.add(str(path), "OK")
                metrics.LOAD_LATENCY.add(str(path), amount=int(1e6 * (time.perf_counter() - started)))
                return loaded
            metrics.LOADS.add(str(path), error.code.name)
            if not attempts_left:
                raise error
            logger.warning("%s; trying again in %g s", error.message, self._settings.load_retry_interval_s)
            await asyncio.sleep(self._settings.load_retry_interval_s)
        raise AssertionError("the last attempt returns or raises")

    def retire(self, model: Model, version: Version) -> None:
        """Gives a version no more requests; it is unloaded, while all else goes on, when those that run have ended."""
        version.state = State.UNLOADING
        model.changed()
        task = asyncio.create_task(self._unload(version))
        self._going.add(task)
        task.add_done_callback(self._going.discard)

    async def unloaded(self) -> None:
        """Waits until what was retired is unloaded."""
        await asyncio.gather(*self._going)

    async def _unload(self, version: Version) -> None:
        await version.drained()
        if version.loaded is not None:
            loaded, version.loaded = version.loaded, None
            await self._unloading.run(loaded.close)
        version.state = State.END
        logger.info("Version %d of %s is unloaded", version.number, version.model)


def _read_in(version: Version, path: Path, base_path: Path, settings: Settings) -> LoadedModel:
    # Before it is loaded: a repair that comes while it is being loaded is to be seen.
    version.files = version_folders.fingerprint(path)
    return _load_warm(path, base_path, settings)


def _load_warm(path: Path, base_path: Path, settings: Settings) -> LoadedModel:
    loaded: LoadedModel | None = None
    try:
        loaded = load(path, base_path, settings.workers, settings.max_model_bytes, settings.allow_ops)
        replayed = warmup.replay(loaded, path) if settings.enable_model_warmup else 0
    except Exception:
        if loaded is not None:
            loaded.close()
        raise
    if replayed:
        logger.info("Replayed %d warm-up requests", replayed)
    return loaded


def _serving_error(raised: Exception, path: Path) -> ServingError:
    """What a load raised, as the state of a version tells it; what nobody foresaw is in the log whole."""
    if isinstance(raised, ServingError):
        return raised
    logger.error("Loading %s", path, exc_info=raised)
    error = ServingError(Code.UNKNOWN, f"{type(raised).__name__}: {raised}")
    error.__cause__ = raised
    return error
