"""Containers for single nodes: the command that starts one, and what of the environment it gets.

Standard library only: Airflow's tasks use it.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
from pathlib import Path

from airtight.errors import TransientError
from airtight.home import Home

ENGINE = "AIRTIGHT_CONTAINER_ENGINE"
"""Names the command that runs containers; docker by default."""
FURTHER = "AIRTIGHT_CONTAINER_ENV"
"""Names further environment variables that containers get, as patterns with commas between: `MLFLOW_*,HTTPS_PROXY`."""
_PASSED = (
    *("AIRTIGHT_*", "SPARK_*", "TF_*", "KERAS_*", "OMP_*", "CUDA_*", "AWS_*", "GOOGLE_*", "AZURE_*"),
    *("DO_NOT_TRACK", "GX_*", "LANG", "LC_*", "TZ"),
)
_NOT_PASSED = ("AIRTIGHT_HOME", "AIRTIGHT_ROOT", "AIRTIGHT_PYTHON", "AIRTIGHT_AIRFLOW_*", "AIRTIGHT_CONTAINER_*")


def command(name: str, image: str, home: Home, socket: Path) -> list[str]:
    """Gives the command that runs a container, which serves one request on a socket in the state folder.

    Args:
      name: The container's name.
      image: Its image, with this project and its packages in it.
      home: The state folder, at the same path inside.
      socket: The socket's path.
    """
    passed = [option for variable in _passed() for option in ("--env", variable)]
    return [
        *(_engine(), "run", "--rm", "--init", "--name", name, "--network", "host"),
        *("--user", f"{os.getuid()}:{os.getgid()}", "--volume", f"{home.path}:{home.path}"),
        *("--env", f"AIRTIGHT_HOME={home.path}", *passed, image),
        *("python", "-m", "runtime", "answer", "--socket", str(socket)),
    ]


def remove(name: str) -> None:
    """Ends and removes a container; harmless when it is gone."""
    subprocess.run([_engine(), "rm", "--force", name], capture_output=True, check=False)


def not_started(image: str, received: str) -> TransientError:
    """Gives the fault of a container that did not come up.

    Args:
      image: Its image.
      received: What came of it.
    """
    return TransientError(
        f"No container of {image} came up.",
        expected=f"`{_engine()} run` to start it, with this project and its packages in it",
        received=received,
        remedy=f"See that the engine runs and has the image; {ENGINE} names another engine.",
    )


def _engine() -> str:
    return os.environ.get(ENGINE) or "docker"


def _passed() -> list[str]:
    """The names of the environment variables that a container gets; the engine reads their values itself."""
    wanted = (*_PASSED, *(pattern.strip() for pattern in os.environ.get(FURTHER, "").split(",")))
    return sorted(name for name in os.environ if _fits(name, wanted) and not _fits(name, _NOT_PASSED))


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
