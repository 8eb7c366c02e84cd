"""Who acts: the attempt of a node that runs in this process, as the launcher knows it."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

USER = "user"
"""The label of an attempt that names the person behind it."""


@dataclass(frozen=True)
class Actor:
    """One attempt of a node.

    Args:
      pipeline: Id of the pipeline.
      node: Id of the node.
      run: Key of the run in ML Metadata.
      attempt: Name of the attempt.
      series: Name of the first attempt of the same series of retries; a Clear begins another series.
      labels: What else is known of it: `dag_id`, `run_id`, `try_number`, `user`.
    """

    pipeline: str = ""
    node: str = ""
    run: str = ""
    attempt: str = ""
    series: str = ""
    labels: Mapping[str, str | int] = field(default_factory=dict)

    def to_json(self) -> dict[str, str | int]:
        """What is known, by name."""
        own = {name: getattr(self, name) for name in ("pipeline", "node", "run", "attempt", "series")}
        return {name: value for name, value in {**self.labels, **own}.items() if value != ""}


_actor: ContextVar[Actor] = ContextVar("actor", default=Actor())  # noqa: B039 - frozen


@contextlib.contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Names who acts within the block."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def current() -> Actor:
    """Who acts; an `Actor` without names outside of a launcher."""
    return _actor.get()


def user_of_shell() -> str:
    """The user that this process belongs to, as labels name a person at a terminal."""
    try:
        return f"{getpass.getuser()} (shell)"
    except (KeyError, OSError):  # A container's user may have no name.
        return "a user without a name (shell)"
