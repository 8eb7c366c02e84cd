"""Going from one served version to another: the file says what is wanted, and the server is waited for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from airtight.errors import TerminalError, TransientError
from airtight.home import Home
from components.modelling.model_server import AVAILABLE, END, ModelServer
from components.modelling.served import STABLE, Choice, Served

log = logging.getLogger(__name__)

POLL_S = 0.1


def served_in(serving_root: str) -> Served:
    """What is served of the models in a folder; empty is the state folder's `models/`."""
    return Served(Path(serving_root) if serving_root else Home.current().models_root)


def current(served: Served, choice: Choice, server: ModelServer | None, model: str) -> int:
    """The version that answers requests now, 0 for none; without a server, the one that the next server would take.

    Args:
      served: The models.
      choice: What is chosen, as it is without a trial.
      server: The server, or None.
      model: The model.
    """
    there = set(served.versions(model)) if server is None else server.available(model)
    return choice.pinned if choice.pinned in there else max(there, default=0)


def change(
    served: Served,
    server: ModelServer | None,
    model: str,
    before: Choice,
    wanted: Choice,
    versions: tuple[int, int],
    timeout_s: float,
) -> None:
    """Goes from one version to the other on the server, or back.

    Args:
      served: The models.
      server: The server that follows the file, or None.
      model: The model.
      before: What is chosen now.
      wanted: What is to be chosen.
      versions: The version that is served now, and the one that is to be.
      timeout_s: The server has so long for each of the two steps.

    Raises:
      TerminalError: The server cannot load the version; everything is as it was.
      TransientError: The server cannot be reached or is not done in time; everything is as it was.
    """
    if server is None:
        served.choose(model, wanted)
        return
    old, new = versions
    try:
        if new != old:
            served.choose(model, before.beside(new, old))
            await_loaded(server, model, new, timeout_s)
        log_refusal(server, model, new)
        served.choose(model, wanted)
        await_alone(server, model, new, wanted, timeout_s)
    except BaseException:
        # Also when the task is stopped: what no Promotion tells of must not be served.
        served.choose(model, before)
        log.warning("The change was taken back: %s is served as before.", old or "nothing")
        raise


def await_loaded(server: ModelServer, model: str, version: int, timeout_s: float) -> None:
    """Waits until the server answers with a version, beside others.

    Raises:
      TerminalError: It cannot load it.
      TransientError: It cannot be reached or is not done in time.
    """
    await_server(
        lambda: _is_loaded(server, model, version), f"version {version} of {model} to be loaded", server, timeout_s
    )


def await_alone(server: ModelServer, model: str, version: int, choice: Choice, timeout_s: float) -> None:
    """Waits until the server has that version only, and calls it `stable` where the choice does.

    Where the highest is chosen, a later one that was pushed meanwhile is as good.

    Raises:
      TransientError: It cannot be reached or is not done in time.
    """
    label = choice.labels.get(STABLE, 0)

    def is_alone() -> bool:
        there = server.available(model)
        return (
            len(there) == 1
            and (there == {version} if choice.versions else min(there) >= version)
            and there == server.available_anywhere(model)
            and (not label or server.labelled(model, STABLE) == label)
        )

    await_server(
        is_alone,
        f"version {version} of {model} to be the only one" + (f" and to be called {STABLE}" if label else ""),
        server,
        timeout_s,
    )


def await_server(true: Callable[[], bool], what: str, server: ModelServer, timeout_s: float) -> None:
    """Waits until the server has followed the file.

    Args:
      true: Whether it has.
      what: What is waited for, in words.
      server: The server.
      timeout_s: It has so long.

    Raises:
      TransientError: It has not.
    """
    wait_for(
        true,
        timeout_s,
        lambda: TransientError(
            "The model server did not follow in time; the change was taken back.",
            expected=f"{what} within {timeout_s:g} s",
            received="a server that is not there yet",
            remedy=f"See that the server at {server.url} reads models.config again and again, and retry the task.",
        ),
    )


def wait_for(true: Callable[[], bool], timeout_s: float, late: Callable[[], TransientError]) -> None:
    """Waits until something is true; raises what `late` makes when it is not in time."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise late()
        time.sleep(POLL_S)


def log_refusal(server: ModelServer, model: str, version: int) -> None:
    """Sees that a version answers; a row that it refuses is an answer, too."""
    if refusal := server.refusal_of_a_row(model, version):
        log.info("Version %d answers; a row of missing values it refuses: %s", version, refusal)


def broken(number: int, model: str, why: str) -> TerminalError:
    """The fault of a version that cannot be served."""
    return TerminalError(
        f"Version {number} of {model} is broken and cannot be served.",
        expected="a SavedModel as it was pushed, that the server loads",
        received=why,
        remedy="Choose another version, or have the month's pipeline push it again.",
    )


def _is_loaded(server: ModelServer, model: str, version: int) -> bool:
    state = server.versions(model).get(version)
    if state is not None and state.state == END and state.error:
        raise broken(version, model, f"the model server cannot load it: {state.error}")
    return state is not None and state.state == AVAILABLE
