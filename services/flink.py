"""The program `flink`: Beam's job server with a Flink inside, to which pipelines are submitted."""

from __future__ import annotations

import os
import sys

from airtight.errors import EXIT_TERMINAL, EXIT_TRANSIENT, AirtightError
from airtight.files import write_text
from airtight.home import Home
from services import jars
from services.kafka import LOGGING
from services.settings import HOST, Settings

# Flink's serializers look into these, which Java 17 does not allow unasked.
OPENED = ("lang", "lang.invoke", "math", "net", "nio", "text", "time", "util", "util.concurrent")


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
    command += ["-cp", f"{jars.folder('flink')}/*", "org.apache.beam.runners.flink.FlinkJobServerDriver"]
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
        sys.exit(EXIT_TRANSIENT if error.transient else EXIT_TERMINAL)
