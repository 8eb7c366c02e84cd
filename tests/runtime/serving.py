"""A warm launcher for a test."""

import os
import subprocess
import sys
from pathlib import Path

from airtight.home import ROOT, Home
from tests.waiting import until


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start_server(home: Home, **further: str) -> subprocess.Popen:
    environment = os.environ | {"AIRTIGHT_HOME": str(home.path), "PYTHONPATH": f"{ROOT}:{home.path}/code"} | further
    (home.path / "code").mkdir(exist_ok=True)
    text = (home.path / "serve.log").read_text
    ready_before = text().count("ready on") if (home.path / "serve.log").exists() else 0
    with (home.path / "serve.log").open("a") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "runtime", "serve"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    until(lambda: text().count("ready on") > ready_before or server.poll() is not None, "the launcher is ready")
    assert server.poll() is None, text()
    return server
