from __future__ import annotations

from pathlib import Path

import pytest

from airtight.errors import TerminalError
from airtight.home import Home
from services import flink, flink_jars, jars
from services.settings import Settings
from services.supervisor import FLINK, expand


def test_flinks_own_parts_listen_on_loopback(tmp_path: Path) -> None:
    options = flink.configuration(Settings(), Home(tmp_path))
    hosts = {name: value for name, value in options.items() if name.endswith(("host", "address"))}
    assert len(hosts) == 6
    assert set(hosts.values()) == {"127.0.0.1"}


def test_state_is_under_the_state_folder_and_what_is_temporary_is_a_programs_own(tmp_path: Path) -> None:
    home = Home(tmp_path)
    options = flink.configuration(Settings(), home, "taskmanager")
    for name in ("state.checkpoints.dir", "state.savepoints.dir"):
        assert options[name].startswith(f"file://{tmp_path}/flink/")
    assert options["io.tmp.dirs"] != flink.configuration(Settings(), home, "jobmanager")["io.tmp.dirs"]


@pytest.mark.parametrize("name", ["jobmanager", "taskmanager", "taskmanager-2", "job-server"])
def test_a_heap_that_is_used_up_ends_the_program(name: str, tmp_path: Path) -> None:
    line = flink.command(name, Settings(flink_taskmanager_memory="1g"), Home(tmp_path), "ours.jar:more/*")
    assert "-XX:+ExitOnOutOfMemoryError" in line
    assert ("-Xmx1152m" if name.startswith("task") else "-Xmx384m") in line


def test_flink_stands_for_the_cluster_with_the_wanted_taskmanagers() -> None:
    assert expand(("kafka", "flink"), Settings()) == ("kafka", *(name for name in FLINK if not name.endswith("-2")))
    assert expand(("flink",), Settings(flink_taskmanagers=2)) == FLINK
    with pytest.raises(TerminalError, match="one TaskManager or two"):
        expand(("flink",), Settings(flink_taskmanagers=3))


@pytest.mark.slow
def test_our_jar_is_compiled_once_for_its_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in flink_jars.SETS:
        jars.fetch(name)
    home, sources = Home(tmp_path / "home"), tmp_path / "java"
    made = flink_jars.own_jar(home)
    at = made.stat().st_mtime_ns
    assert flink_jars.own_jar(home) == made
    assert made.stat().st_mtime_ns == at

    (sources / "airtight").mkdir(parents=True)
    (sources / "airtight" / "Wrong.java").write_text("package airtight; class Wrong { int missing() { } }")
    monkeypatch.setattr(flink_jars, "SOURCES", sources)
    with pytest.raises(TerminalError, match="do not compile") as refused:
        flink_jars.own_jar(home)
    assert "missing()" in refused.value.received
    assert list((tmp_path / "home" / "java").iterdir()) == [made], "nothing half"
