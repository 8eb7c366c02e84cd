from __future__ import annotations

import re
import socket

import pytest

from airtight.home import Home
from services import flink
from services.__main__ import up
from services.supervisor import Supervisor
from tests.services.listening import listening


def test_flinks_own_parts_are_told_to_listen_on_loopback() -> None:
    assert set(re.findall(r": (.*)", flink.configuration())) == {"127.0.0.1"}


@pytest.mark.slow
def test_the_job_server_listens_on_loopback_alone(home: Home) -> None:
    """As Beam ships it, it would let everybody on the network run code here."""
    settings = up(home, ("flink",))
    (pid,) = (program.pid for program in Supervisor(home).programs() if program.pid)
    assert listening(pid) == {"127.0.0.1"}
    for port in (settings.flink_job_port, settings.flink_artifact_port, settings.flink_expansion_port):
        socket.create_connection(("127.0.0.1", port), 5).close()
