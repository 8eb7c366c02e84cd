"""Requests that bring only what a pipeline's own code needs to look features up: it fills them in, the model answers.

`POST /v1/NAME:predict` takes `{"instances": [...]}` and answers `{"predictions": [...], "freshness": [...]}`, and with
`"features": true` also the features that the model was asked with, null where one is missing. The model is asked as any
client would ask it, so that releases, labels and the prediction log hold.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import orjson

from airtight import import_string
from airtight.errors import TerminalError, TransientError
from serving.errors import Code, ServingError, invalid
from serving.router.config import Online
from serving.router.trials import Answer

logger = logging.getLogger(__name__)

THREADS = 4
"""Lookups at once; others wait for them and not the event loop."""
_CALL = re.compile(r"/v1/([^/:]+):predict")
_FIELDS = {"instances", "features"}
_OK = 200
Ask = Callable[[str, bytes], Awaitable[Answer]]
"""Asks for a path with a body."""


class Lookup(Protocol):
    """What `--online` names is called without arguments and gives this; it is used by several threads at once."""

    def __call__(self, instances: Sequence[Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Fills in the features of a request.

        Args:
          instances: From JSON, at least one.

        Returns:
          For each instance the model's inputs by name, NaN for a number that is missing, and what to tell the client
          of how fresh they are: JSON and instants.

        Raises:
          TerminalError: The request is at fault.
          TransientError: There is nothing to look up in, now.
        """


class Filling:
    """The online routes of the router.

    Args:
      settings: Which they are.
      timeout_s: A lookup may take so long.

    Raises:
      TerminalError: A route of `--online` names no code. One of a pipeline's settings is left out, whatever its code
        raises: the router is also that of the other pipelines.
    """

    def __init__(self, settings: Sequence[Online], timeout_s: float) -> None:
        self._of: dict[str, tuple[str, Lookup]] = {}
        for route in settings:
            try:
                self._of[route.name] = route.model, import_string.load(route.code)()
            except Exception as error:
                if not route.is_declared:
                    raise
                logger.warning("The route %s of %s is left out: %s", route.name, route.model, error)
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="online")
        # Requests wait here and not in the executor's queue: one that is over leaves nothing behind.
        self._free = asyncio.Semaphore(THREADS)

    def name(self, method: str, path: str) -> str | None:
        """The route that a request is for; None where it is none of these."""
        call = _CALL.fullmatch(path) if self._of and method == "POST" else None
        return call[1] if call and call[1] in self._of else None

    async def answer(self, name: str, content: bytes, ask: Ask) -> Answer:
        """Answers one request.

        Args:
          name: Of the route.
          content: The request's body.
          ask: Asks a model server.

        Raises:
          ServingError: The request is at fault, or nothing can be looked up.
        """
        model, lookup = self._of[name]
        try:
            async with asyncio.timeout(self._timeout_s):
                filled = await self._look_up(lookup, content)
        except TimeoutError:
            raise ServingError(Code.DEADLINE_EXCEEDED, f"No features in {self._timeout_s:g} s") from None
        except TerminalError as error:
            raise invalid(str(error)) from error
        except TransientError as error:
            raise ServingError(Code.UNAVAILABLE, str(error)) from error
        except ServingError:
            raise
        except Exception as error:
            logger.exception("The lookup of %s failed", name)
            raise ServingError(Code.INTERNAL, f"The features could not be looked up: {type(error).__name__}") from error
        body, filled_in = filled
        answer = await ask(f"/v1/models/{model}:predict", body)
        if answer.code != _OK:
            return answer
        return Answer(_OK, _dumps({"predictions": _predictions(answer.content), **filled_in}), answer.rest)

    async def _look_up(self, lookup: Lookup, content: bytes) -> tuple[bytes, dict[str, Any]]:
        await self._free.acquire()
        filling = asyncio.get_running_loop().run_in_executor(self._threads, _filled, lookup, content)
        filling.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(filling)  # The thread is busy until it is done, whoever still waits.


def _filled(lookup: Lookup, content: bytes) -> tuple[bytes, dict[str, Any]]:
    """The body for the model, and what else the client is told."""
    request = _request(content)
    rows, freshness = lookup(request["instances"])
    filled_in: dict[str, Any] = {"freshness": freshness}
    if request.get("features"):
        filled_in["features"] = rows
    # By column, each name is there once. NaN is how the model server is told of a missing number.
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return json.dumps({"inputs": columns}, ensure_ascii=False).encode(), filled_in


def _predictions(content: bytes) -> list[Any]:
    """A prediction for each instance, of a model server's answer by column."""
    try:
        outputs = orjson.loads(content)["outputs"]
    except orjson.JSONDecodeError:
        outputs = json.loads(content)["outputs"]  # The standard library reads NaN, which no JSON has.
    if not isinstance(outputs, dict):
        return outputs
    return [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]


def _request(content: bytes) -> dict[str, Any]:
    try:
        request = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error}") from None
    if not isinstance(request, dict):
        raise invalid('Expected an object such as {"instances": [...]}')
    if unknown := sorted(request.keys() - _FIELDS):
        raise invalid(f"Unknown field {unknown[0]!r}; expected instances, and features")
    instances = request.get("instances")
    if not isinstance(instances, list) or not instances:
        raise invalid("instances: expected a list with at least one instance")
    if not isinstance(request.get("features", False), bool):
        raise invalid("features: expected true or false")
    return request


def _dumps(payload: Any) -> bytes:
    return orjson.dumps(payload, option=orjson.OPT_UTC_Z)
