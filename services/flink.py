"""The program `flink`: Beam's job server with a Flink inside, to which pipelines are submitted.

Beam 2.62 opens its ports on every interface, whatever host it is told, and asks nobody who he is: anybody on the
network could run code here. One call in one class decides that; here it is exchanged for the one that was meant.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

from airtight.errors import AirtightError
from airtight.files import new_file, write_text
from airtight.home import Home
from services import jars
from services.class_file import call_with_the_whole
from services.kafka import LOGGING
from services.settings import HOST, Settings

# Flink's serializers look into these, which Java 17 does not allow unasked.
OPENED = ("lang", "lang.invoke", "math", "net", "nio", "text", "time", "util", "util.concurrent")

FACTORY = "org/apache/beam/sdk/fn/server/ServerFactory$InetSocketAddressServerFactory.class"
"""Opens every port of the job server and of its jobs but one: the expansion service listens where it is told."""
BUILDER = "org/apache/beam/vendor/grpc/v1p60p1/io/grpc/netty/NettyServerBuilder"

GET_PORT = "java/net/InetSocketAddress.getPort"


def listen_where_told(classes: Path, libraries: Path) -> None:
    """Writes the class of Beam that opens ports, corrected: `forPort(address.getPort())` becomes `forAddress(address)`.

    Args:
      classes: A folder that stands before the jars on the class path.
      libraries: The folder with the jars.

    Raises:
      TerminalError: The class is another one than that of Beam 2.62.
    """
    (core,) = libraries.glob("beam-sdks-java-core-*.jar")
    with zipfile.ZipFile(core) as jar:
        code = jar.read(FACTORY)
    signature = f"(Ljava/net/SocketAddress;)L{BUILDER};"
    with new_file(classes / FACTORY) as file:
        file.write_bytes(call_with_the_whole(code, GET_PORT, f"{BUILDER}.forPort", "forAddress", signature))


def configuration() -> str:
    """Flink's own settings: left alone, its parts would listen on every interface."""
    names = ("jobmanager.bind-host", "jobmanager.rpc.address", "rest.address", "rest.bind-address", "taskmanager.host")
    return "".join(f"{name}: {HOST}\n" for name in (*names, "taskmanager.bind-host"))


def main() -> None:
    """Becomes the job server.

    Raises:
      AirtightError: Its jars are not there.
    """
    settings, place = Settings.from_environment(), Home.current().path / "flink"
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    write_text(place / "flink-conf.yaml", configuration())
    command = [jars.java(), f"-Xmx{settings.flink_memory}", f"-Djava.io.tmpdir={place / 'tmp'}", *LOGGING]
    command += [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in OPENED]
    libraries = jars.folder("flink")
    listen_where_told(place / "classes", libraries)
    command += ["-cp", f"classes:{libraries}/*", "org.apache.beam.runners.flink.FlinkJobServerDriver"]
    command += ["--flink-master=[local]", f"--flink-conf-dir={place}", f"--artifacts-dir={place / 'artifacts'}"]
    command += [f"--job-host={HOST}", f"--job-port={settings.flink_job_port}"]
    command += [f"--artifact-port={settings.flink_artifact_port}", f"--expansion-port={settings.flink_expansion_port}"]
    os.chdir(place)
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        main()
    except AirtightError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
