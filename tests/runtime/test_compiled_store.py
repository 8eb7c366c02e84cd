"""Which compiled pipeline a run has, and which of them go."""

import importlib.metadata
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from runtime import compiled_store
from runtime.compiled_pipeline import CompiledPipeline
from runtime.compiled_store import (
    RunRecord,
    all_known,
    current,
    keep,
    name_of,
    path_of_name,
    publish,
    record_of_run,
    remove_old,
    usable,
)

EMPTY = CompiledPipeline("x:create", "p", "", "UTC", (), (), False, (), (), {}, "", {})
RUN = ("dag", "", "run", "2013-06-01", "0")


def test_the_first_task_of_a_run_says_with_what_it_began(home):
    first, second = (RunRecord(f"x/{name}", {"n": name}) for name in "ab")
    assert record_of_run(RUN, first, home) == first
    assert record_of_run(RUN, second, home) == first, "a later task of the same run"
    cleared = (*RUN[:-1], "1")
    assert record_of_run(cleared, second, home) == second


def test_of_several_first_tasks_one_says_with_what_the_run_began(home):
    """All begin at once, with what each of them sees in its own DAG."""
    together = threading.Barrier(8)

    def begin(number: int) -> RunRecord:
        together.wait()
        return record_of_run(RUN, RunRecord(f"x/{number}", {"n": number}), home)

    with ThreadPoolExecutor(8) as pool:
        (kept,) = {record.compiled for record in pool.map(begin, range(8))}
    assert record_of_run(RUN, RunRecord("x/later", {}), home).compiled == kept


def aged(path, days):
    then = time.time() - days * 86_400
    os.utime(path, (then, then))


def test_what_is_neither_current_nor_of_a_recent_run_goes(home):
    old, of_a_run, young, now = (replace(EMPTY, doc=name) for name in ("old", "run", "young", "now"))
    paths = {compiled.doc: publish(compiled, home) for compiled in (old, of_a_run, young, now)}
    record_of_run(RUN, RunRecord(name_of(of_a_run, home), {}), home)
    record_of_run(("older",), RunRecord(name_of(old, home), {}), home)
    for name in ("old", "run", "now"):
        aged(paths[name], 40)
    for record in (home.compiled / "runs").glob("*.json"):
        aged(record, 400 if name_of(old, home) in record.read_text() else 200)
    assert remove_old(home, days=30, dry_run=True) == [paths["old"]]
    assert paths["old"].exists()
    assert remove_old(home, days=30) == [paths["old"]]
    assert sorted(p.name for p in home.compiled.glob("x*/*.json")) == sorted(
        paths[n].name for n in ("run", "young", "now")
    )
    assert len([*(home.compiled / "runs").glob("*.json")]) == 1
    assert current("x:create", home).doc == "now"


def test_each_task_of_a_run_keeps_what_the_run_began_with(home):
    """However long ago that was, and however little is to be kept."""
    path = keep(EMPTY, home)
    record = RunRecord(name_of(EMPTY, home), {})
    record_of_run(RUN, record, home)
    (noted,) = (home.compiled / "runs").iterdir()
    for file in (path, noted):
        aged(file, 40)
    assert record_of_run(RUN, RunRecord("x/other", {}), home) == record
    for days in (30, 0):
        assert remove_old(home, days=days) == []
    assert record_of_run(RUN, RunRecord("x/other", {}), home) == record
    assert path.exists()


def test_a_run_that_begins_during_a_clean_up_keeps_its_pipeline(home, monkeypatch):
    path = keep(EMPTY, home)
    aged(path, 40)
    record_of_run(("other",), RunRecord("x/other", {}), home)
    read = compiled_store._record_in

    def read_while_a_run_begins(file):
        monkeypatch.setattr(compiled_store, "_record_in", read)
        record_of_run(RUN, RunRecord(name_of(EMPTY, home), {}), home)
        return read(file)

    monkeypatch.setattr(compiled_store, "_record_in", read_while_a_run_begins)
    assert remove_old(home, days=30) == []
    assert path.exists()


def test_what_an_asker_takes_is_young_again(home):
    earlier = replace(EMPTY, tfx=importlib.metadata.version("tfx"))
    path = keep(earlier, home)
    publish(replace(EMPTY, tfx="of another release"), home)
    aged(path, 40)
    assert usable("x:create", home) == earlier
    assert remove_old(home, days=30) == []


def test_what_was_only_run_here_is_known_too(home):
    keep(replace(EMPTY, source="local:create"), home)
    publish(EMPTY, home)
    publish(replace(EMPTY, doc="newer"), home)
    assert {(known.source, known.doc) for known in all_known(home)} == {("local:create", ""), ("x:create", "newer")}


@pytest.mark.parametrize(
    "fields", [{}, {"arguments": {"n": [1, 2.0, None]}, "environment": {"A": "0"}, "paths": ("/x",)}]
)
def test_what_is_read_is_what_was_written(home, fields):
    compiled = replace(EMPTY, **fields)
    path = keep(compiled, home)
    assert CompiledPipeline.read(path) == compiled
    assert path_of_name(name_of(compiled, home), home) == path
