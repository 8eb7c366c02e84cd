"""The class path of the Flink cluster: the locked jars and one of our own, compiled from services/java.

`python -m services.flink_jars` makes that jar and prints the class path, for a Flink that runs elsewhere.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from airtight.errors import AirtightError, TerminalError
from airtight.files import digest_of_tree, new_file
from airtight.home import ROOT, Home
from services import jars
from services.class_file import call_with_the_whole
from services.settings import Settings

SETS = ("flink", "flink-kafka", "java-compiler")
"""The sets of `services.jars` that the cluster needs."""
SOURCES = ROOT / "services" / "java"
JAVA = "17"
"""The Java that the classes are compiled for."""
COMPILE_S = 120.0

# Flink's serializers look into these, which Java 17 does not allow unasked.
_OPENED = ("lang", "lang.invoke", "math", "net", "nio", "text", "time", "util", "util.concurrent")
OPENS = tuple(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED)

FACTORY = "org/apache/beam/sdk/fn/server/ServerFactory$InetSocketAddressServerFactory.class"
"""Opens every port of the job server and of the TaskManagers' Beam, on every interface, whatever host it is given."""
BUILDER = "org/apache/beam/vendor/grpc/v1p60p1/io/grpc/netty/NettyServerBuilder"
GET_PORT = "java/net/InetSocketAddress.getPort"


def loopback_factory(libraries: Path) -> bytes:
    """The class of Beam that opens ports, corrected: `forPort(address.getPort())` becomes `forAddress(address)`.

    Args:
      libraries: The folder with Beam's jars.

    Returns:
      The class file, to stand before the jars on the class path.

    Raises:
      TerminalError: The class is another one than that of Beam 2.62.
    """
    (core,) = libraries.glob("beam-sdks-java-core-*.jar")
    with zipfile.ZipFile(core) as jar:
        code = jar.read(FACTORY)
    signature = f"(Ljava/net/SocketAddress;)L{BUILDER};"
    return call_with_the_whole(code, GET_PORT, f"{BUILDER}.forPort", "forAddress", signature)


def own_jar(home: Home) -> Path:
    """The jar of our own classes; compiled where it is not there yet.

    Its name holds the digest of its sources and of the jars that they are compiled against.

    Raises:
      TerminalError: The sources do not compile.
      AirtightError: The jars are not there.
    """
    locks = "".join(jars.lock_file(name).read_text(encoding="utf-8") for name in SETS)
    digest = hashlib.sha256(f"{digest_of_tree(SOURCES)}\n{locks}".encode()).hexdigest()[:16]
    path = home.path / "java" / f"airtight-{digest}.jar"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as classes, new_file(path) as file:
            _compile(Path(classes))
            with zipfile.ZipFile(file, "w") as jar:
                for made in sorted(p for p in Path(classes).rglob("*") if p.is_file()):
                    jar.write(made, made.relative_to(classes))
                for service in sorted((SOURCES / "META-INF").rglob("*")):
                    jar.write(service, service.relative_to(SOURCES))
                jar.writestr(FACTORY, loopback_factory(jars.folder("flink")))
    return path


def class_path(home: Home) -> str:
    """What every Java program of the cluster has on its class path, ours first.

    Raises:
      AirtightError: The jars are not there, or ours does not compile.
    """
    return ":".join([str(own_jar(home)), *(f"{jars.folder(name)}/*" for name in SETS[:2])])


def _compile(classes: Path) -> None:
    (compiler,) = jars.folder("java-compiler").iterdir()
    # The compiler takes no `folder/*`.
    libraries = ":".join(str(jar) for name in SETS[:2] for jar in sorted(jars.folder(name).iterdir()))
    command = [jars.java(), "-jar", str(compiler), f"-{JAVA}", "-nowarn", "-encoding", "UTF-8", "-cp", libraries]
    result = subprocess.run(
        [*command, "-d", str(classes), str(SOURCES)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
        check=False,
    )
    if result.returncode:
        raise TerminalError(
            "The Java classes of the stream's source do not compile.",
            expected=f"exit status 0 of the compiler for {SOURCES}",
            received=(result.stderr or result.stdout).strip()[:1000],
            remedy="Correct the sources, or the versions in services/jars.py that they are compiled against.",
        )


if __name__ == "__main__":
    try:
        for wanted in SETS:
            jars.fetch(wanted, Settings.from_environment().ivy_settings, lambda line: print(line, file=sys.stderr))
        print(class_path(Home.current()))
    except AirtightError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
