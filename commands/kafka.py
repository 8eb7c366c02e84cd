"""`make kafka`, `make stream`: the broker of the local services with a pipeline's topics, and the pipeline's stream.

python -m commands.kafka PIPELINE           the broker, and the topics that the pipeline's stream declares
python -m commands.kafka PIPELINE flink     Flink, too, and the stream as a job of it
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from airtight.errors import AirtightError
from airtight.home import Home
from services.__main__ import up
from services.environment import environment
from services.settings import Settings
from streaming.topics import ensure
from streaming.windows.declaration import Stream, declared


def start(home: Home, stream: Stream, names: Sequence[str] = ()) -> Settings:
    """Starts the broker where it does not run, and ensures the topics of a stream.

    A broker elsewhere, which AIRTIGHT_KAFKA names, is used in place of ours; only its topics are ensured.

    Args:
      home: The state folder.
      stream: The declaration.
      names: Programs of the local services to start with it.

    Returns:
      The settings that the services run with.

    Raises:
      AirtightError: The broker does not come up or cannot be reached, or its topics cannot be made as declared.
    """
    wanted = Settings.from_environment()
    programs = (*names, *(() if wanted.kafka_elsewhere else ("kafka",)))
    settings = up(home, programs) if programs else wanted
    servers = wanted.kafka_servers if wanted.kafka_elsewhere else settings.own_kafka
    for change in ensure(servers, stream.all_topics) or ["all as declared"]:
        print(f"  topics of {servers}: {change}", flush=True)
    return settings


def main(arguments: Sequence[str]) -> int:
    """Starts them; with `flink` among them the stream, too, as a job of the cluster.

    Args:
      arguments: A pipeline's name, or an import string of its stream; then programs of the local services.

    Returns:
      The exit status: 0, or that of a fault that may or may not heal.
    """
    home, (name, *names) = Home.current(), arguments
    try:
        settings = start(home, declared(name), names)
    except AirtightError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if "flink" not in names:
        return 0
    # The services' own ports are in their environment.
    command = [sys.executable, "-m", "streaming.windows", name]
    return subprocess.run(command, env=environment(settings, home), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
