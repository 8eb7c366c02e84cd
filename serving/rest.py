"""The REST API, as one ASGI application without a framework: the routes are few and the hot path is short."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import orjson

from serving import cors, examples, metadata, metrics, paths, tensors_json
from serving.bodies import Bodies, Gone
from serving.config import Settings
from serving.connections import GONE, TASK
from serving.deadlines import Deadlines
from serving.errors import HTTP_STATUS, Code, ServingError, invalid
from serving.inference import Runner
from serving.large_json import APART_BYTES, LargeJson
from serving.paths import Target
from serving.prediction_log.log import PredictionLog
from serving.prediction_log.notes import Answered
from serving.signature import Signature, size_of
from serving.versions import Registry, Version

logger = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_JSON = (b"content-type", b"application/json")


class RestApi:
    """Answers HTTP requests.

    Args:
      registry: What is served.
      runner: Runs inference.
      settings: Limits.
      log: Gets a note of each call that was answered.
      bodies: Counts what the requests take; None counts them for this API alone.
    """

    def __init__(
        self,
        registry: Registry,
        runner: Runner,
        settings: Settings,
        log: PredictionLog,
        bodies: Bodies | None = None,
    ) -> None:
        self._registry = registry
        self._runner = runner
        self._log = log
        self._large = LargeJson()
        self._bodies = bodies or Bodies(settings.max_request_bytes, settings.max_pending_bytes)
        self._deadlines = Deadlines(settings.rest_api_timeout_s)
        self._metrics_path = settings.metrics_path
        self._more_headers = cors.HEADERS if settings.cors else []

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One request, as ASGI passes it."""
        path, verb = paths.path_of(scope["raw_path"]), scope["method"]
        try:
            target = paths.call(path) if verb == "POST" else None
            if target is not None:
                scope[TASK] = asyncio.current_task()
                async with self._bodies.read(scope, receive, unpack=True) as body:
                    answer = await self._call(target, body, scope)
            elif verb == "OPTIONS":
                cors.check_preflight(scope["headers"])
                answer = b""
            else:
                answer = self._look(verb, path)
            status, kind = 200, _JSON
            if path == self._metrics_path:
                kind = (b"content-type", metrics.CONTENT_TYPE.encode())
        except ServingError as error:
            status, kind = HTTP_STATUS[error.code], _JSON
            answer = orjson.dumps({"error": _printable(error.message)})
        except Gone:
            return
        except asyncio.CancelledError:
            if not scope.get(GONE):
                raise
            return  # Nobody waits for an answer.
        except Exception as error:
            logger.exception("A request was not answered")
            status, kind = HTTP_STATUS[Code.INTERNAL], _JSON
            answer = orjson.dumps({"error": f"Internal error: {type(error).__name__}"})
        scope.pop(TASK, None)  # What is left is to send the answer.
        headers = [kind, (b"content-length", str(len(answer)).encode()), *self._more_headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _call(self, target: Target, body: bytes, scope: dict[str, Any]) -> bytes:
        started, name, status = time.perf_counter(), self._known(target.name), Code.UNKNOWN.name
        calls: list[Answered] = []
        method, noted = target.verb.capitalize(), False
        try:
            with self._deadlines.limited():
                answer = await self._answer(target, body, calls)
                if self._log.durable:
                    seconds, noted = time.perf_counter() - started, True
                    noting = (name, target.label, method, Code.OK.name, seconds)
                    await self._log.keep(*noting, protocol="REST", header_source=scope, calls=calls)
            status = Code.OK.name
            return answer
        except ServingError as error:
            status = error.code.name
            raise
        except asyncio.CancelledError:
            # The server is being stopped and does not wait any longer, or the client has gone (`GONE`).
            status = Code.CANCELLED.name
            raise
        except TimeoutError as error:
            status = Code.DEADLINE_EXCEEDED.name
            raise ServingError(Code.DEADLINE_EXCEEDED, f"Timed out after {self._deadlines.limit_s:g} s") from error
        finally:
            metrics.REQUESTS.add(name, status)
            seconds = time.perf_counter() - started
            metrics.REQUEST_LATENCY.observe(1e6 * seconds, name, method, "REST")
            if not noted:
                self._log.note(
                    name, target.label, method, status, seconds, protocol="REST", header_source=scope, calls=calls
                )

    def _known(self, name: str) -> str:
        """A model's name; names that people make up are neither label values nor models with turns of their own."""
        return name if name in self._registry.models else ""

    async def _answer(self, target: Target, body: bytes, calls: list[Answered]) -> bytes:
        size, runner, verb, model = len(body), self._runner, target.verb, self._known(target.name)
        if size >= APART_BYTES:
            return await self._answer_large(target, body, calls)
        request = await runner.convert(model, size, tensors_json.parse, body)
        signature_name = request.get("signature_name", "")
        if type(signature_name) is not str:
            raise invalid("'signature_name' key must be a string value.")
        version = self._registry.resolve(*target.chosen)
        with version as loaded:
            signature = loaded.signature(signature_name)
            if verb == "predict":
                arrays, rows = await runner.convert(model, size, tensors_json.decode, request, signature)
            else:
                arrays = await runner.convert(model, size, examples.arrays_from_json, request, signature, verb)
                rows = False
            return await self._run(version, signature, arrays, calls, _writer(verb, signature, arrays, rows))

    async def _answer_large(self, target: Target, body: bytes, calls: list[Answered]) -> bytes:
        verb = target.verb
        with contextlib.ExitStack() as held:
            async with self._large.parsed(self._known(target.name), body) as document:
                version = self._registry.resolve(*target.chosen)
                signature = held.enter_context(version).signature(document.signature_name)
                if verb == "predict":
                    arrays, rows = await document.decode(signature)
                else:
                    arrays, rows = await document.examples(signature, verb), False
            return await self._run(version, signature, arrays, calls, _writer(verb, signature, arrays, rows))

    async def _run(
        self,
        version: Version,
        signature: Signature,
        arrays: list[np.ndarray],
        calls: list[Answered],
        write: Callable[[list[np.ndarray]], bytes],
    ) -> bytes:
        outputs = await self._runner.run(version.model, signature, arrays)
        calls.append(Answered(version.number, signature, arrays, outputs))
        return await self._runner.convert(version.model, size_of(outputs), write, outputs)

    def _look(self, verb: str, path: str) -> bytes:
        if not path.startswith("/v1") or path == self._metrics_path:
            if path == self._metrics_path and verb == "GET":
                return metrics.exposition()
            raise ServingError(Code.NOT_FOUND, f"Not found: {verb} {path}")
        if verb == "GET" and path in ("/v1/models", "/v1/models/"):
            raise invalid("Missing model name in request.")
        target = paths.look(path) if verb == "GET" else None
        if target is None:
            raise invalid(f"Malformed request: {verb} {path}")
        if target.verb:
            return metadata.metadata_json(self._registry.resolve(*target.chosen))
        return metadata.status_json(self._registry.states(*target.chosen))


def _writer(
    verb: str, signature: Signature, arrays: list[np.ndarray], rows: bool
) -> Callable[[list[np.ndarray]], bytes]:
    """What writes the answer; `rows` says in which format predict does."""
    if verb == "predict":
        return functools.partial(tensors_json.encode, signature=signature, rows=rows)
    return functools.partial(examples.result_json, signature=signature, verb=verb, count=len(arrays[0]))


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
