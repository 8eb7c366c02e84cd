"""The program `kafka`: one broker, KRaft, formatted once; its data is in the state folder's `kafka/`."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import uuid
from pathlib import Path

from airtight.errors import AirtightError, TerminalError
from airtight.files import new_folder, remove_abandoned, write_text
from airtight.home import ROOT, Home
from services import jars
from services.settings import HOST, Settings

CONSTANT = ROOT / "services" / "kafka.properties"
LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)
"""Of slf4j-simple, which writes to stderr."""


def properties(settings: Settings, data: str) -> str:
    """The broker's configuration.

    Args:
      settings: Its ports.
      data: Its folder, relative to that in which it runs: a state folder's path may hold what Kafka cannot read here.
    """
    configuration = {
        "listeners": f"PLAINTEXT://{HOST}:{settings.kafka_port},CONTROLLER://{HOST}:{settings.kafka_controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{settings.kafka_port}",
        "controller.quorum.voters": f"1@{HOST}:{settings.kafka_controller_port}",
        "log.dirs": data,
    }
    return CONSTANT.read_text(encoding="utf-8") + "".join(f"{name}={value}\n" for name, value in configuration.items())


def format_once(settings: Settings, classes: str, place: Path) -> None:
    """Makes the broker's empty data folder, whole or not at all; one that is there stays.

    Raises:
      TerminalError: Kafka's tool fails.
    """
    if (place / "data").exists():
        return
    remove_abandoned(place)
    with new_folder(place / "data") as temporary:
        configuration = place / "format.properties"
        write_text(configuration, properties(settings, temporary.name))
        # Kafka wants 16 random bytes, and a value that may begin with a dash must not stand alone.
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [jars.java(), *LOGGING, "-cp", classes, "kafka.tools.StorageTool", "format"]
        command += ["--config", str(configuration), f"--cluster-id={cluster}"]
        completed = subprocess.run(
            command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        configuration.unlink()
        if completed.returncode:
            raise TerminalError(
                "Kafka's data folder could not be made.",
                expected="exit status 0 of kafka.tools.StorageTool",
                received=(completed.stderr or completed.stdout).strip()[-500:],
                remedy=f"Correct what it tells; the folder is {place}.",
            )


def main() -> None:
    """Becomes the broker.

    Raises:
      AirtightError: Its jars are not there, or it cannot be formatted.
    """
    settings, place = Settings.from_environment(), Home.current().path / "kafka"
    classes = f"{jars.folder('kafka')}/*"
    place.mkdir(parents=True, exist_ok=True)
    format_once(settings, classes, place)
    # Written at each start: the ports may be others than last time.
    write_text(place / "server.properties", properties(settings, "data"))
    os.chdir(place)
    memory = (f"-Xmx{settings.kafka_memory}", f"-Xms{settings.kafka_memory}")
    command = [jars.java(), *memory, *LOGGING, "-cp", classes, "kafka.Kafka", "server.properties"]
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        main()
    except AirtightError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
