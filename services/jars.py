"""The jars of the services that are Java programs: fetched once from Maven with pyspark's Ivy, and checked by a lock.

`python -m services.jars fetch` fetches all of them ahead; `python -m services.jars lock` writes the locks anew after a
version was changed here (`make lock`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from airtight.errors import AirtightError, TerminalError, TransientError
from airtight.files import digest_of_file, new_folder, remove_abandoned, write_text
from airtight.home import ROOT
from services.settings import Settings

SETS: Mapping[str, tuple[str, ...]] = {
    # Kafka leaves the choice of a logger to whoever starts it.
    "kafka": ("org.apache.kafka:kafka_2.13:4.1.0", "org.slf4j:slf4j-simple:1.7.36"),
    "flink": ("org.apache.beam:beam-runners-flink-1.19:2.62.0", "org.slf4j:slf4j-simple:1.7.36"),
    # Kafka's consumer for it, and the one compression that neither has.
    "flink-kafka": ("org.apache.kafka:kafka-clients:3.9.1", "com.github.luben:zstd-jni:1.5.6-10"),
    # Compiles services/java: a machine that runs Java has no compiler for that reason alone.
    "java-compiler": ("org.eclipse.jdt:ecj:3.42.0",),
    # No program: benchmarks.spark_stream fetches it. Spark's own two are the newest that could be had from Maven, older
    # than pyspark and of different ages; the benchmark compares every total that comes of them.
    "spark-kafka": (
        "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0",
        "org.apache.spark:spark-token-provider-kafka-0-10_2.13:4.1.0-preview1",
        "org.apache.kafka:kafka-clients:3.9.2",
        "org.apache.commons:commons-pool2:2.13.1",
    ),
}
"""What each program is made of, group:artifact:version; Maven says what that needs in turn."""
ALONE = frozenset({"flink-kafka", "java-compiler", "spark-kafka"})
"""Sets of which nothing comes but what is named: another set or pyspark has the rest."""
LOCKS = ROOT / "requirements"
TIMEOUT_S = 1800.0


def lock_file(name: str) -> Path:
    """The lock of a set: a line for each jar, SHA-256 and file name, as sha256sum writes and checks it."""
    return LOCKS / f"{name}.jars"


def lock(name: str) -> dict[str, str]:
    """SHA-256 of each jar of a set by its file name."""
    lines = lock_file(name).read_text(encoding="utf-8").splitlines()
    return {jar: digest for digest, jar in (line.split(maxsplit=1) for line in lines)}


def cache() -> Path:
    """The user's cache, which outlives checkouts and state folders: `$XDG_CACHE_HOME/airtight/jars`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "airtight" / "jars"


def java() -> str:
    """The Java that runs the services.

    Raises:
      TerminalError: There is none.
    """
    root = os.environ.get("JAVA_HOME")
    executable = shutil.which(str(Path(root) / "bin" / "java") if root else "java")
    if not executable:
        raise TerminalError(
            "Java was not found.",
            expected="Java 17, as Spark needs it too",
            received=f"no java in JAVA_HOME={root}" if root else "no java on PATH",
            remedy="Install it (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME.",
        )
    return executable


def folder(name: str) -> Path:
    """The folder with the jars of a set, whole and each as the lock has it.

    Raises:
      TerminalError: They were never fetched, or a jar was changed since.
    """
    path = _place(name)
    if not path.is_dir():
        raise TerminalError(
            f"The jars of {name} are not there.",
            expected=f"{len(lock(name))} jars in {path}",
            received="no such folder",
            remedy=f"Fetch them: python -m services up {name}.",
        )
    _check(name, path, f"Remove the folder {path} and start again; the jars are then fetched anew.")
    return path


def fetch(name: str, ivy_settings: str = "", tell: Callable[[str], None] = print) -> Path:
    """Fetches the jars of a set where they are not there yet.

    Several may fetch at once: they take turns, and whoever comes later finds what the first one brought.

    Args:
      name: One of `SETS`.
      ivy_settings: A settings file of Ivy that names other repositories; empty for Ivy's own, Maven Central.
      tell: Receives a line before the jars are fetched.

    Returns:
      The folder with the jars.

    Raises:
      TerminalError: There is no Java, or a jar is not that of the lock.
      TransientError: The repository cannot be reached.
    """
    path = _place(name)
    if not path.is_dir():
        tell(f"Fetching {len(lock(name))} jars of {name} from Maven, once ...")
        with _alone() as shared:
            if not path.is_dir():
                remove_abandoned(path.parent)
                with new_folder(path) as temporary:
                    _retrieve(name, temporary, shared, ivy_settings)
                    _check(name, temporary, "Try another repository; after a change of versions: make lock.")
    return folder(name)


def write_locks(names: Sequence[str] = tuple(SETS), ivy_settings: str = "") -> None:
    """Resolves the sets anew, writes down what came, and keeps it.

    Raises:
      AirtightError: They cannot be fetched.
    """
    for name in names:
        with _alone() as shared, tempfile.TemporaryDirectory() as temporary:
            _retrieve(name, Path(temporary), shared, ivy_settings)
            digests = {path.name: digest_of_file(path) for path in sorted(Path(temporary).iterdir())}
            write_text(lock_file(name), "".join(f"{digest}  {jar}\n" for jar, digest in digests.items()))
            # They need not be fetched a second time to be used.
            if not _place(name).exists():
                with new_folder(_place(name)) as kept:
                    shutil.copytree(temporary, kept, dirs_exist_ok=True)


def _place(name: str) -> Path:
    """Named by the lock's contents: another version is another folder, and may serve another checkout meanwhile."""
    return cache() / f"{name}-{hashlib.sha256(lock_file(name).read_bytes()).hexdigest()[:16]}"


def _check(name: str, path: Path, remedy: str) -> None:
    wanted = lock(name)
    there = {file.name: digest_of_file(file) for file in path.iterdir()}
    wrong = [
        *(f"{jar} is missing" for jar in sorted(wanted.keys() - there.keys())),
        *(f"{jar} is too many" for jar in sorted(there.keys() - wanted.keys())),
        *(f"{jar} is another one" for jar in sorted(wanted) if there.get(jar, wanted[jar]) != wanted[jar]),
    ]
    if wrong:
        raise TerminalError(
            f"The jars of {name} are not those of the lock.",
            expected=f"the {len(wanted)} jars of {lock_file(name)}",
            received=wrong,
            remedy=remedy,
        )


@contextlib.contextmanager
def _alone() -> Iterator[Path]:
    """One fetch after the other on this machine; yields Ivy's own folder, from which a broken-off fetch goes on."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "fetch.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        shared = cache() / "ivy"
        yield shared
        # Kept only where the block was left by a fault: everything lies in a folder of ours now.
        shutil.rmtree(shared, ignore_errors=True)


def _retrieve(name: str, target: Path, shared: Path, ivy_settings: str) -> None:
    """Has Ivy bring the jars of a set, and all that they need at run time, into `target`."""
    coordinates = SETS[name]
    parts = [dict(zip(("org", "name", "rev"), coordinate.split(":"), strict=True)) for coordinate in coordinates]
    # Without a mapping Ivy would bring the tests' and the optional dependencies, too.
    mapping = 'conf="default->master" transitive="false"' if name in ALONE else 'conf="default->default"'
    wanted = "".join(
        f"<dependency {' '.join(f'{k}={quoteattr(v)}' for k, v in part.items())} {mapping}/>" for part in parts
    )
    with tempfile.TemporaryDirectory() as scratch:
        module = Path(scratch) / "ivy.xml"
        module.write_text(
            f'<ivy-module version="2.0"><info organisation="airtight" module="jars"/>'
            f"<dependencies>{wanted}</dependencies></ivy-module>",
            encoding="utf-8",
        )
        command = [java(), "-cp", str(_ivy()), "org.apache.ivy.Main", "-warn", "-cache", str(shared)]
        command += ["-settings", ivy_settings] if ivy_settings else []
        command += ["-ivy", str(module), "-retrieve", f"{target}/[artifact]-[revision](-[classifier]).[ext]"]
        try:
            ivy = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise _unreachable(coordinates, f"nothing for {TIMEOUT_S:.0f} s") from error
    if ivy.returncode or not any(target.iterdir()):
        lines = [line.strip(" \t:") for line in (ivy.stdout + ivy.stderr).splitlines()]
        telling = [line for line in lines if any(word in line for word in ("not found", "ERROR", "rror:", "xception"))]
        raise _unreachable(coordinates, list(dict.fromkeys(telling or lines[-3:])))


def _unreachable(coordinates: Sequence[str], received: object) -> TransientError:
    return TransientError(
        "The jars could not be fetched.",
        expected=f"{', '.join(coordinates)} and what they need, from a Maven repository",
        received=received,
        remedy="Check the network and try again, or name another repository by an Ivy settings file: "
        "AIRTIGHT_IVY_SETTINGS=...",
    )


def _ivy() -> Path:
    """Ivy's jar; Spark ships it for its own packages."""
    spec = importlib.util.find_spec("pyspark")
    jars = sorted(Path(spec.origin).parent.glob("jars/ivy-*.jar")) if spec and spec.origin else []
    if not jars:
        raise TerminalError(
            "Ivy was not found.",
            expected="pyspark with its jars",
            received="no jars/ivy-*.jar in it",
            remedy="Install the locked environment: make install.",
        )
    return jars[-1]


if __name__ == "__main__":
    if sys.argv[1:] not in (["fetch"], ["lock"]):
        sys.exit("usage: python -m services.jars fetch|lock")
    try:
        repositories = Settings.from_environment().ivy_settings
        if sys.argv[1] == "lock":
            write_locks(ivy_settings=repositories)
        else:
            for wanted in SETS:
                fetch(wanted, repositories)
    except AirtightError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
