"""A small version of `make soak`: runs that are hit while they run end green, whole and once."""

import json
import subprocess
import sys

import pytest

from airtight.home import ROOT
from benchmarks.kills import WEIGHTS

pytestmark = pytest.mark.slow


def test_runs_survive_kills():
    command = [sys.executable, "-m", "benchmarks.kills", "--runs", "5", "--every", "0.8", "--most", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All runs are green" in done.stdout
    told = json.loads(done.stdout.splitlines()[-1])["kills"]
    assert sum(told.get(kind, 0) for kind in WEIGHTS), "nothing was hit"
