"""A small version of `make soak`: runs that are struck while they run end green, whole and once."""

import json
import subprocess
import sys

import pytest

from airtight.home import ROOT

pytestmark = pytest.mark.slow
KINDS = ("node", "task", "recreate", "machine")


def test_runs_survive_kills():
    strikes = ["--every", "0.8", "--most", "6", "--longest-stop", "6", "--kinds", *KINDS]
    command = [sys.executable, "-m", "benchmarks.kills", "--runs", "4", "--seed", "3", *strikes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All runs are green" in done.stdout
    record = json.loads(done.stdout.splitlines()[-1])["kills"]
    assert all(record.get(kind) for kind in KINDS), record
