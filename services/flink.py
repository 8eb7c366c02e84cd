"""The programs of the local Flink session cluster: `python -m services.flink jobmanager|taskmanager|job-server`.

The same jars, configuration and submission as on a cluster of several hosts; here every port is on 127.0.0.1. A heap
that is used up ends the program, and the supervisor starts it again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from airtight.errors import AirtightError
from airtight.files import write_text
from airtight.home import Home
from services import flink_jars, jars
from services.settings import HOST, Settings

LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    # What a restart, a checkpoint and a recovery say of themselves.
    "-Dorg.slf4j.simpleLogger.log.org.apache.flink.runtime.checkpoint=info",
    "-Dorg.slf4j.simpleLogger.log.org.apache.flink.runtime.executiongraph=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)
HEAPS = {"jobmanager": "384m", "job-server": "384m"}
"""Heaps of the programs that hold no state of a job; a TaskManager's is a setting."""
OFF_HEAP = {
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "64m",
    "taskmanager.memory.task.off-heap.size": "64m",
    "taskmanager.memory.managed.size": "64m",
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "64m",
    "taskmanager.memory.jvm-overhead.max": "64m",
}
"""Each share must be given: the script that would compute them is not among Maven's jars."""
KEPT_CHECKPOINTS = 3
"""Of each job: a resubmission may start from one that was the newest seconds ago."""


def place(home: Home) -> Path:
    """The folder of the cluster's state: checkpoints, savepoints, configuration and temporary files."""
    return home.path / "flink"


def configuration(settings: Settings, home: Home, name: str = "jobmanager") -> dict[str, str]:
    """Flink's configuration of one program.

    Args:
      settings: Ports and sizes.
      home: The state folder.
      name: The program, which has temporary files of its own.

    Returns:
      Flink's settings by name, values as Flink writes them.
    """
    folder = place(home)
    return {
        "jobmanager.rpc.address": HOST,
        "jobmanager.bind-host": HOST,
        "jobmanager.rpc.port": str(settings.flink_rpc_port),
        "rest.address": HOST,
        "rest.bind-address": HOST,
        "rest.port": str(settings.flink_rest_port),
        "rest.bind-port": str(settings.flink_rest_port),
        "blob.server.port": str(settings.flink_blob_port),
        # TensorFlow Model Analysis has more stages than there is memory for the 512 that each takes by default.
        "taskmanager.network.sort-shuffle.min-buffers": "64",
        "taskmanager.host": HOST,
        "taskmanager.bind-host": HOST,
        "taskmanager.rpc.port": "0",
        "taskmanager.data.port": "0",
        "taskmanager.numberOfTaskSlots": str(settings.flink_slots),
        "taskmanager.cpu.cores": "1",
        "taskmanager.memory.task.heap.size": settings.flink_taskmanager_memory,
        **OFF_HEAP,
        # Every program has the same jars on its class path.
        "classloader.resolve-order": "parent-first",
        "io.tmp.dirs": str(_temporary(home, name)),
        "state.backend.type": "hashmap",
        "state.checkpoints.dir": (folder / "checkpoints").as_uri(),
        "state.checkpoints.num-retained": str(KEPT_CHECKPOINTS),
        "state.savepoints.dir": (folder / "savepoints").as_uri(),
        # A checkpoint that a cancelled job leaves is what its successor starts from.
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "web.exception-history-size": "100",
        # Metrics are as old as that at most, and stand still so long after a TaskManager was killed (10 s, 10 minutes).
        "metrics.fetcher.update-interval": "2000",
        "web.timeout": "20000",
        # A TaskManager that was killed refuses two heartbeats, and its slots are gone; one that is only slow has 15 s.
        "heartbeat.interval": "1000",
        "heartbeat.timeout": "15000",
        "restart-strategy.type": "exponential-delay",
        "restart-strategy.exponential-delay.initial-backoff": "1 s",
        "restart-strategy.exponential-delay.max-backoff": "30 s",
        # A fault that comes back again and again fails the job with its reason; a minute without one resets the count.
        "restart-strategy.exponential-delay.attempts-before-reset-backoff": "10",
        "restart-strategy.exponential-delay.reset-backoff-threshold": "1 min",
        # A machine that does much else takes longer than Flink's 10 s to answer itself.
        "pekko.ask.timeout": "60 s",
    }


def command(name: str, settings: Settings, home: Home, classes: str) -> list[str]:
    """The command line of a program of the cluster.

    Args:
      name: jobmanager, taskmanager, taskmanager-2 or job-server.
      settings: Ports and sizes.
      home: The state folder.
      classes: The class path.
    """
    folder, conf = place(home), place(home) / "conf" / name
    heap = HEAPS.get(name) or f"{_megabytes(settings.flink_taskmanager_memory) + _megabytes('128m')}m"
    java = [jars.java(), f"-Xmx{heap}", "-XX:+ExitOnOutOfMemoryError", f"-Djava.io.tmpdir={_temporary(home, name)}"]
    java += [*LOGGING, *flink_jars.OPENS, "-cp", classes]
    if name == "jobmanager":
        main = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        return [*java, main, "--configDir", str(conf)]
    if name == "job-server":
        java += ["airtight.JobServer", HOST, str(settings.flink_expansion_port), str(conf)]
        java += [f"--flink-master={HOST}:{settings.flink_rest_port}", f"--flink-conf-dir={conf}"]
        java += [f"--job-host={HOST}", f"--job-port={settings.flink_job_port}", "--expansion-port=-1"]
        return [*java, f"--artifact-port={settings.flink_artifact_port}", f"--artifacts-dir={folder / 'artifacts'}"]
    main = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
    return [*java, main, "--configDir", str(conf), "-D", f"taskmanager.resource-id={name}"]


def write_configuration(options: Mapping[str, str], folder: Path) -> None:
    """Writes `flink-conf.yaml`."""
    write_text(folder / "flink-conf.yaml", "".join(f"{name}: {value}\n" for name, value in options.items()))


def _temporary(home: Home, name: str) -> Path:
    return place(home) / "tmp" / name


def _megabytes(size: str) -> int:
    """Java's spelling of a size, such as 512m or 1g, in MiB."""
    return int(size[:-1]) * {"m": 1, "g": 1024}[size[-1].lower()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Becomes one program of the cluster.

    Raises:
      AirtightError: The jars are not there, or our own does not compile.
    """
    parser = argparse.ArgumentParser(prog="python -m services.flink", description=__doc__)
    parser.add_argument("program", choices=("jobmanager", "taskmanager", "taskmanager-2", "job-server"))
    name = parser.parse_args(arguments).program
    settings, home = Settings.from_environment(), Home.current()
    # What a killed predecessor left: uploaded jars and spilled data, gigabytes after some kills.
    leftovers = [_temporary(home, name), *([place(home) / "artifacts"] if name == "job-server" else [])]
    for folder in leftovers:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    conf = place(home) / "conf" / name
    conf.mkdir(parents=True, exist_ok=True)
    write_configuration(configuration(settings, home, name), conf)
    line = command(name, settings, home, flink_jars.class_path(home))
    os.chdir(place(home))
    os.environ["FLINK_CONF_DIR"] = str(conf)
    os.execv(line[0], line)


if __name__ == "__main__":
    try:
        main()
    except AirtightError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
