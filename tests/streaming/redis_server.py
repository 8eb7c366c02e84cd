"""A Redis server of a test's own, where its program and its client are."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess

import pytest

from tests.waiting import until


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    """Its address; a real one."""
    program = shutil.which("redis-server")
    if program is None or importlib.util.find_spec("redis") is None:
        pytest.skip("neither a Redis server nor its client is here")
    folder = tmp_path_factory.mktemp("redis")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder))
    server = subprocess.Popen([program, *settings], stdout=subprocess.DEVNULL)
    try:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "Redis listens")
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()
