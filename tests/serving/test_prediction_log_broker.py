"""The prediction log of a real server in a real broker, both of which are killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from airtight.home import Home
from services.__main__ import up
from services.supervisor import Supervisor
from streaming import dead_letters
from streaming.topics import Topic, ensure
from tests.services.conftest import home  # noqa: F401
from tests.serving import models
from tests.serving.test_prediction_log_kills import Client, await_that, journals_in, rows_in, server_with_log
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow

TOPIC = "answers"


def messages_in(servers: str) -> list[dict]:
    """All messages of the topic so far."""
    return [json.loads(record.value) for record in dead_letters.letters(servers, TOPIC)]


def kill_broker(home: Home) -> None:  # noqa: F811
    """The supervisor starts it again."""
    pid = next(program.pid for program in Supervisor(home).programs() if program.name == "kafka")
    os.kill(pid, signal.SIGKILL)


def test_no_answer_is_lost_though_server_and_broker_are_killed(home: Home, tmp_path: Path) -> None:  # noqa: F811
    servers = up(home, ("kafka",)).kafka_servers
    topics = [Topic(TOPIC, 3, {})]
    ensure(servers, topics)
    fallback = tmp_path / "fallback"
    flags = (
        f"--prediction_log=kafka://{servers}/{TOPIC}",
        f"--prediction_log_fallback={fallback}",
        "--prediction_log_durable",
    )
    answered: set[str] = set()

    def load(server: models.Server, name: str) -> list[Client]:
        clients = [Client(server.rest, f"{name}{number}") for number in range(4)]
        for client in clients:
            client.start()
        return clients

    with server_with_log(tmp_path, *flags) as server:
        clients = load(server, "first")
        await_that(lambda: any(message["outputs"] for message in messages_in(servers)))
        kill_broker(home)
        before = sum(len(client.answered) for client in clients)
        await_that(lambda: sum(len(client.answered) for client in clients) > before + 100)
        server.process.kill()
        for client in clients:
            client.join(60)
            answered |= set(client.answered)
    base = f"--model_base_path={tmp_path}/affine"
    with models.running(tmp_path, "--model_name=m", base, *flags) as server:
        clients = load(server, "second")
        assert ensure(servers, topics, PATIENCE_S) == [], "the broker is back, and takes rows again"
        await_that(lambda: any(message["request_id"].startswith("second") for message in messages_in(servers)))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        for client in clients:
            client.join(60)
            answered |= set(client.answered)
    messages = messages_in(servers)
    in_kafka = {message["request_id"] for message in messages}
    # The killed server's shipper outlives it, and leaves in the fallback what the broker does not take by then.
    assert answered <= in_kafka | {row["request_id"] for row in rows_in(fallback)}
    assert {(message["inputs"]["x"], message["outputs"]["y"]) for message in messages if message["code"] == "OK"} == {
        (1.0, 2.0)
    }
    assert not journals_in(tmp_path)
