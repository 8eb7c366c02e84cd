"""Fetching jars with a Java that is a shell script: what it writes is what Maven would have brought."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airtight.errors import TerminalError, TransientError
from airtight.home import ROOT
from services import jars

JARS = {"kafka_2.13-1.jar": "kafka", "slf4j-1.jar": "logger"}
BRINGS = """while [ "$1" != -retrieve ]; do [ "$1" = -cache ] && mkdir -p "$2"; shift; done
here=$(dirname "$2")
sleep 0.2
"""


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock and an empty cache of this test's own; gives the file in which each run of Java leaves its arguments."""
    monkeypatch.setattr(jars, "LOCKS", tmp_path)
    lines = [f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in JARS.items()]
    (tmp_path / "kafka.jars").write_text("".join(lines))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tmp_path / "calls"


def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "bin" / "java"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n{script}')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def bring(jars_there: dict[str, str]) -> str:
    return BRINGS + "".join(f'printf {text} > "$here/{name}"\n' for name, text in jars_there.items())


def test_they_are_fetched_once_and_are_then_there(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java(tmp_path, monkeypatch, bring(JARS))
    lines: list[str] = []
    folder = jars.fetch("kafka", tell=lines.append)
    assert {path.name: path.read_text() for path in folder.iterdir()} == JARS
    assert jars.fetch("kafka", tell=lines.append) == jars.folder("kafka") == folder
    assert len(lines) == len(fetched.read_text().splitlines()) == 1
    assert not (jars.cache() / "ivy").exists(), "what lies in our folder need not lie in Ivy's"


def test_those_who_fetch_at_once_take_turns_and_one_fetches(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java(tmp_path, monkeypatch, bring(JARS))
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: jars.fetch("kafka", tell=lambda line: None), range(4)))
    assert len(folders) == 1
    assert len(fetched.read_text().splitlines()) == 1


def test_one_who_is_killed_half_way_leaves_nothing_that_passes_for_the_whole(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java(tmp_path, monkeypatch, bring({"slf4j-1.jar": "logger"}) + "exec sleep 60 >/dev/null 2>&1")
    code = "import sys; from pathlib import Path; from services import jars; jars.LOCKS = Path(sys.argv[1])\n"
    code += "jars.fetch('kafka', tell=lambda line: None)"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(jars.cache().glob(".kafka-*/slf4j-1.jar")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, 9)
    process.wait()
    assert list(jars.cache().glob(".kafka-*/slf4j-1.jar")), "it was half-way"
    with pytest.raises(TerminalError, match="not there"):
        jars.folder("kafka")
    java(tmp_path, monkeypatch, bring(JARS))
    assert set(os.listdir(jars.fetch("kafka", tell=lambda line: None))) == set(JARS)


@pytest.mark.parametrize(
    ("brought", "message"),
    [
        ({"slf4j-1.jar": "logger"}, "kafka_2.13-1.jar is missing"),
        ({**JARS, "more-1.jar": "more"}, "more-1.jar is too many"),
        ({**JARS, "slf4j-1.jar": "stranger"}, "slf4j-1.jar is another one"),
    ],
)
def test_what_the_lock_does_not_have_is_refused_and_not_kept(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brought: dict[str, str], message: str
) -> None:
    java(tmp_path, monkeypatch, bring(brought))
    with pytest.raises(TerminalError, match=message):
        jars.fetch("kafka", tell=lambda line: None)
    assert not list(jars.cache().glob("*kafka-*"))


def test_a_jar_that_was_changed_since_is_noticed(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java(tmp_path, monkeypatch, bring(JARS))
    folder = jars.fetch("kafka", tell=lambda line: None)
    (folder / "slf4j-1.jar").write_text("stranger")
    for check in (jars.folder, jars.fetch):
        with pytest.raises(TerminalError, match=r"slf4j-1.jar is another one.*Remove the folder"):
            check("kafka")
    shutil.rmtree(folder)
    assert jars.fetch("kafka", tell=lambda line: None) == folder


def test_another_lock_is_another_folder(fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java(tmp_path, monkeypatch, bring(JARS))
    before = jars.fetch("kafka", tell=lambda line: None)
    lock = tmp_path / "kafka.jars"
    lock.write_text("".join(reversed(lock.read_text().splitlines(keepends=True))))
    assert jars.fetch("kafka", tell=lambda line: None) != before
    assert before.is_dir(), "another checkout may need it"


def test_without_a_network_it_says_so_in_ivys_words(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java(tmp_path, monkeypatch, "echo 'WARN: Host repository.example not found. url=...'; exit 1")
    with pytest.raises(TransientError, match=r"Host repository\.example not found") as failure:
        jars.fetch("kafka", tell=lambda line: None)
    assert "AIRTIGHT_IVY_SETTINGS" in failure.value.remedy


def test_another_repository_is_named_by_ivys_settings(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java(tmp_path, monkeypatch, bring(JARS))
    jars.fetch("kafka", "/etc/ivysettings.xml", tell=lambda line: None)
    assert "-settings /etc/ivysettings.xml" in fetched.read_text()


def test_a_missing_java_is_told(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TerminalError, match="Java was not found"):
        jars.fetch("kafka", tell=lambda line: None)
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(TerminalError, match="JAVA_HOME=/nowhere"):
        jars.java()


@pytest.mark.parametrize("name", jars.SETS)
def test_the_lock_has_what_the_set_names(name: str) -> None:
    locked = jars.lock(name)
    assert all(len(digest) == 64 for digest in locked.values())
    for coordinates in jars.SETS[name]:
        _, artifact, version = coordinates.split(":")
        assert f"{artifact}-{version}.jar" in locked
