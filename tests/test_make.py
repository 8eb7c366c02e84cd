from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from airtight.home import ROOT

CHECK_TOOLS = ROOT / "services" / "check-tools"


def make_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_help_tells_every_target_and_is_the_default() -> None:
    targets = set(re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    output = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[1] for line in output.splitlines() if line.startswith("  make ")} == targets
    assert {
        "demo",
        "test",
        "test-fast",
        "lint",
        "stop",
        "clean",
        "start",
        "status",
        "logs",
        "bench",
        "soak",
        "lock",
    } <= targets


def test_new_passes_on_what_is_said_at_the_command_line_alone() -> None:
    command = ["make", "--no-print-directory", "-n", "new", "NAME=bike", "DATA=postgresql://me@host/db?a=1&b=2"]
    environment = {**os.environ, "LABEL": "of the shell"}
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment).stdout
    words = shlex.split(output.splitlines()[-1])
    assert words[words.index("commands.new") + 1 :] == command[4:]


def test_ci_runs_lint_and_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert script.index("make lint") < script.index("make test")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_a_missing_python_and_java_are_told_in_words(tmp_path: Path) -> None:
    for tool in ("bash", "sed"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}")
    done = subprocess.run(
        ["/bin/bash", CHECK_TOOLS, "python3.11"], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Python 3.11 was not found" in done.stderr
    assert "Java 17 was not found" in done.stderr


def test_wrong_versions_are_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "sed").symlink_to("/bin/sed")
    make_program(tmp_path / "python3.11", "echo 3.12")
    make_program(tmp_path / "java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2")
    done = subprocess.run(["/bin/bash", CHECK_TOOLS], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "is Python 3.12" in done.stderr
    assert "is Java 11" in done.stderr


def test_right_versions_pass(tmp_path: Path) -> None:
    (tmp_path / "sed").symlink_to("/bin/sed")
    make_program(tmp_path / "python3.11", "echo 3.11")
    make_program(tmp_path / "java", "echo 'openjdk version \"17.0.2\" 2022-01-18' >&2")
    done = subprocess.run(["/bin/bash", CHECK_TOOLS], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "mark",
    [
        "run/fernet_key",
        "lake/flights/_versions/000001.json",
        "compiled/flight_delays-0123abcd/digest.json",
        "scratch/metadata.sqlite",
        "scratch/compiled/flight_delays-0123abcd/digest.json",
    ],
)
def test_clean_removes_a_state_folder_and_no_other(tmp_path: Path, mark: str) -> None:
    home = tmp_path / "some state"
    (home / "lake").mkdir(parents=True)
    (home / "thesis.txt").touch()

    def clean() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "AIRTIGHT_HOME": str(home)}
        return subprocess.run(["make", "clean"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    refused = clean()
    assert refused.returncode and "holds no state of Airtight" in refused.stderr
    assert (home / "thesis.txt").exists()
    (home / mark).parent.mkdir(parents=True, exist_ok=True)
    (home / mark).touch()
    assert clean().returncode == 0
    assert not home.exists()
    assert clean().returncode == 0, "nothing is there, and nothing is wrong"


def test_the_lock_is_of_its_sources() -> None:
    """Each name of requirements.in is pinned, and nothing in the lock names a host or a path."""
    names = [
        re.split(r"[=\[<>]", line)[0]
        for line in (ROOT / "requirements" / "requirements.in").read_text().split("\n")
        if line and not line.startswith("#")
    ]
    lock = (ROOT / "requirements.txt").read_text()
    pinned = dict(re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?==(\S+)$", lock, re.MULTILINE))
    assert [name for name in names if name not in pinned] == []
    assert "://" not in lock
    assert "file:" not in lock
