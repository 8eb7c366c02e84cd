"""Asking model servers over REST: which versions they have, and does one answer. TensorFlow Serving speaks the same."""

from __future__ import annotations

import http.client
import json
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from airtight.errors import TerminalError, TransientError

OK, NOT_FOUND, BAD_REQUEST, SERVER_ERROR = 200, 404, 400, 500
SERVER_VARIABLE = "AIRTIGHT_MODEL_SERVER"
"""Environment variable with the REST address of the server to ask, or several, separated by commas."""
AVAILABLE, UNLOADING, END = "AVAILABLE", "UNLOADING", "END"
_STATES = ("START", "LOADING", AVAILABLE, UNLOADING, END)


@dataclass(frozen=True)
class VersionState:
    """What a server says of one version.

    Args:
      state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
      error: Why it did not load; empty when nothing is wrong.
    """

    state: str
    error: str


class ModelServer:
    """The servers of the same models, one connection to each, kept open; a proxy in the environment is not used.

    What is said of several servers holds for each of them.

    Args:
      url: Such as http://127.0.0.1:8501, or several, separated by commas.
      timeout_s: For one request.

    Raises:
      TerminalError: `url` holds what is no HTTP address.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self.url = url
        self._servers = [_Connection(one.strip(), timeout_s) for one in url.split(",")]

    @classmethod
    def named(cls, url: str) -> ModelServer | None:
        """The server of that address; of none, what $AIRTIGHT_MODEL_SERVER names, and there is nobody to ask else.

        Raises:
          TerminalError: It is no HTTP address.
        """
        address = url or os.environ.get(SERVER_VARIABLE, "")
        return cls(address) if address else None

    def versions(self, model: str) -> dict[int, VersionState]:
        """The versions of a model that a server knows; none for a model that they do not know (yet).

        Where servers differ, a version is as far as on the one that is least far; AVAILABLE is what all of them have.

        Raises:
          TransientError: A server cannot be reached or answers with an error of its own.
        """
        by_server = [server.versions(model) for server in self._servers]
        return {
            number: _least([states.get(number) for states in by_server]) for number in sorted(set().union(*by_server))
        }

    def available(self, model: str) -> set[int]:
        """The versions that answer requests, on every server.

        Raises:
          TransientError: A server cannot be reached or answers with an error of its own.
        """
        return {number for number, state in self.versions(model).items() if state.state == AVAILABLE}

    def available_anywhere(self, model: str) -> set[int]:
        """The versions that answer requests on one server at least.

        Raises:
          TransientError: A server cannot be reached or answers with an error of its own.
        """
        by_server = [server.versions(model) for server in self._servers]
        return {number for states in by_server for number, state in states.items() if state.state == AVAILABLE}

    def labelled(self, model: str, label: str) -> int:
        """The version that has a label on every server, 0 where one does not know the label (yet) or they differ.

        Raises:
          TransientError: A server cannot be reached.
        """
        versions = {server.labelled(model, label) for server in self._servers}
        return versions.pop() if len(versions) == 1 else 0

    def refusal_of_a_row(self, model: str, version: int) -> str:
        """Asks a version for one row in which every value is missing; the answer is not judged.

        Returns:
          Empty when each server answers, else the message with which the model refuses such a row.

        Raises:
          TransientError: The version gives no answer, or a server cannot be reached.
          TerminalError: The model has no signature `serving_default`.
        """
        return next(filter(None, [server.refusal_of_a_row(model, version) for server in self._servers]), "")

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """One request, to the first of the servers.

        Returns:
          HTTP status and the parsed JSON answer.

        Raises:
          TransientError: The server cannot be reached, or what answers is no model server.
        """
        return self._servers[0].request(method, path, body)

    def close(self) -> None:
        """Ends the connections."""
        for server in self._servers:
            server.close()


class _Connection:
    """One connection to one server, kept open between requests."""

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        self.url = url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TerminalError(
                "The model server's address is not usable.",
                expected="http://host:port",
                received=repr(url),
                remedy="Correct server_url in the pipeline's settings.",
            )
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._prefix = parts.path.rstrip("/")

    def versions(self, model: str) -> dict[int, VersionState]:
        """The versions of a model that the server knows; none for a model that it does not know (yet).

        Raises:
          TransientError: The server cannot be reached or answers with an error of its own.
        """
        status, answer = self.request("GET", f"/v1/models/{quote(model)}")
        if status == NOT_FOUND:
            return {}
        if status != OK:
            raise self._strange(status, answer)
        return {
            int(entry["version"]): VersionState(entry["state"], entry["status"]["error_message"])
            for entry in answer["model_version_status"]
        }

    def labelled(self, model: str, label: str) -> int:
        """The version that has a label, 0 where the server does not know the label (yet).

        Raises:
          TransientError: The server cannot be reached.
        """
        status, answer = self.request("GET", f"/v1/models/{quote(model)}/labels/{quote(label)}")
        return int(answer["model_version_status"][0]["version"]) if status == OK else 0

    def refusal_of_a_row(self, model: str, version: int) -> str:
        """Asks a version for one row in which every value is missing; the answer is not judged.

        Returns:
          Empty when it answers, else the message with which the model refuses such a row.

        Raises:
          TransientError: The version gives no answer, or the server cannot be reached.
          TerminalError: The model has no signature `serving_default`.
        """
        path = f"/v1/models/{quote(model)}/versions/{version}"
        status, metadata = self.request("GET", f"{path}/metadata")
        if status != OK:
            raise self._strange(status, metadata)
        signatures = metadata["metadata"]["signature_def"]["signature_def"]
        if "serving_default" not in signatures:
            raise TerminalError(
                f"Version {version} of {model} cannot be called.",
                expected="a signature serving_default",
                received=sorted(signatures),
                remedy="Correct the step that exports the model.",
            )
        inputs = signatures["serving_default"]["inputs"]
        row = {name: _missing(info) for name, info in inputs.items()}
        status, answer = self.request("POST", f"{path}:predict", json.dumps({"inputs": row}).encode())
        if status == BAD_REQUEST:
            return answer["error"]
        if status != OK:
            raise self._strange(status, answer)
        return ""

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """One request.

        Returns:
          HTTP status and the parsed JSON answer.

        Raises:
          TransientError: The server cannot be reached, or what answers is no model server.
        """
        try:
            self._connection.request(method, self._prefix + path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise TransientError(
                "The model server cannot be reached.",
                expected=f"a model server that answers at {self.url}",
                received=f"{type(error).__name__}: {error}",
                remedy="Start the model server, or correct server_url, and retry the task.",
            ) from error

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def _strange(self, status: int, answer: Any) -> TransientError:
        return TransientError(
            "The model server answers with an error.",
            expected=f"status {OK} from {self.url}",
            received=f"{status}: {json.dumps(answer)[:300]}",
            remedy="Look at the model server's log and retry the task.",
        )


def _least(states: list[VersionState | None]) -> VersionState:
    """What is true of one version on all servers: a fault on one is a fault, and what one has not is not there yet."""
    faults = [state for state in states if state is not None and state.error]
    if faults:
        return faults[0]
    known = [state for state in states if state is not None]
    if len(known) < len(states):
        return VersionState(_STATES[0], "")
    gone = [state for state in known if state.state in (UNLOADING, END)]
    return gone[0] if gone else min(known, key=lambda state: _STATES.index(state.state))


def _missing(info: dict[str, Any]) -> Any:
    """A missing value in the form of an input: nested lists, one of each size that varies."""
    value: Any = {"DT_STRING": "", "DT_FLOAT": float("nan"), "DT_DOUBLE": float("nan"), "DT_BOOL": False}.get(
        info["dtype"], 0
    )
    for dim in reversed(info["tensor_shape"].get("dim", [])):
        size = int(dim["size"])
        value = [value] * (1 if size < 0 else size)
    return value
