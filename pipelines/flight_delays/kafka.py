"""`make kafka`, `make stream`: the broker of the local services with the topics of flight_delays, and its readers."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from airtight.errors import AirtightError
from airtight.home import Home
from pipelines.flight_delays.topics import TOPICS
from services.__main__ import up
from services.settings import Settings
from streaming.topics import ensure


def start(home: Home, names: Sequence[str] = ()) -> Settings:
    """Starts the broker where it does not run, and ensures the topics.

    A broker elsewhere, which AIRTIGHT_KAFKA names, is used in place of ours; only its topics are ensured.

    Args:
      home: The state folder.
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
    for change in ensure(servers, TOPICS) or ["all as declared"]:
        print(f"  topics of {servers}: {change}", flush=True)
    return settings


if __name__ == "__main__":
    try:
        start(Home.current(), sys.argv[1:])
    except AirtightError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
