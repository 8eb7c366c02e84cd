"""The models behind the router, for people: their versions with states, and their labels."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from airtight.errors import TerminalError
from serving.config import ModelSettings, models_from_file
from serving.router.backends import PROBE_S, Backend
from serving.router.pool import Pool

CONFIG = "models.config"


class Catalogue:
    """What `models.config` names, and what the servers say of it.

    Args:
      root: The models' root.
      pool: The servers.
    """

    def __init__(self, root: Path, pool: Pool) -> None:
        self._root = root
        self._pool = pool

    async def as_dict(self) -> dict[str, Any]:
        """`models`: name, labels, and versions with state, error and the number of servers that have it AVAILABLE.

        `error` says why `models.config` cannot be read, and is empty otherwise.
        """
        models, error = self._models()
        listings = await asyncio.gather(*(self._model(model) for model in models))
        return {"models": listings, "error": error}

    def _models(self) -> tuple[list[ModelSettings], str]:
        try:
            file = self._root / CONFIG
            if file.exists():
                return sorted(models_from_file(file), key=lambda model: model.name), ""
            # Without the file, as where `--models_root` serves them, each folder with a version is a model.
            folders = sorted(self._root.iterdir()) if self._root.is_dir() else []
            named = [each for each in folders if each.is_dir() and any(v.name.isdecimal() for v in each.iterdir())]
            return [ModelSettings(each.name, each) for each in named], ""
        except (TerminalError, OSError) as error:
            return [], str(error)

    async def _model(self, model: ModelSettings) -> dict[str, Any]:
        listings = await asyncio.gather(*(self._versions(backend, model.name) for backend in self._pool.well))
        versions: dict[int, dict[str, Any]] = {}
        for entries in listings:
            for entry in entries:
                number, state = int(entry["version"]), entry["state"]
                kept = versions.setdefault(
                    number,
                    {"version": number, "state": state, "error": entry["status"]["error_message"], "servers": 0},
                )
                if state == "AVAILABLE":
                    kept["servers"] += 1
                    kept["state"] = state
        return {
            "name": model.name,
            "labels": model.labels,
            "versions": [versions[number] for number in sorted(versions, reverse=True)],
        }

    async def _versions(self, backend: Backend, model: str) -> list[dict[str, Any]]:
        try:
            async with asyncio.timeout(PROBE_S):
                async with self._pool.session.get(f"{backend.address.rest}/v1/models/{quote(model)}") as response:
                    status = orjson.loads(await response.read())
                    return status.get("model_version_status", [])
        except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError):
            self._pool.doubt()
            return []
