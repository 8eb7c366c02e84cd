"""The program `flink-local`: Beam's job server with a Flink inside, for the streams that do not run on the cluster yet.

Beam 2.62 opens its ports on every interface, whatever host it is told, and asks nobody who he is: anybody on the
network could run code here. One call in one class decides that; here it is exchanged for the one that was meant.
"""

from __future__ import annotations

import os
import sys

from airtight.errors import AirtightError
from airtight.files import new_file, write_text
from airtight.home import Home
from services import jars
from services.flink_jars import FACTORY, OPENS, loopback_factory
from services.kafka import LOGGING
from services.settings import HOST, Settings


def configuration() -> str:
    """Flink's own settings: left alone, its parts would listen on every interface."""
    names = ("jobmanager.bind-host", "jobmanager.rpc.address", "rest.address", "rest.bind-address", "taskmanager.host")
    return "".join(f"{name}: {HOST}\n" for name in (*names, "taskmanager.bind-host"))


def main() -> None:
    """Becomes the job server.

    Raises:
      AirtightError: Its jars are not there.
    """
    settings, place = Settings.from_environment(), Home.current().path / "flink-local"
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    write_text(place / "flink-conf.yaml", configuration())
    command = [jars.java(), f"-Xmx{settings.flink_memory}", f"-Djava.io.tmpdir={place / 'tmp'}", *LOGGING]
    libraries = jars.folder("flink")
    with new_file(place / "classes" / FACTORY) as file:
        file.write_bytes(loopback_factory(libraries))
    command += [
        "-XX:+ExitOnOutOfMemoryError",
        *OPENS,
        "-cp",
        f"classes:{libraries}/*",
        "org.apache.beam.runners.flink.FlinkJobServerDriver",
    ]
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
