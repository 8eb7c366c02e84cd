"""The commands: a run that is tried out touches nothing that is served, and no DAG."""

import os
import sys

import pytest

from airtight.errors import TerminalError
from airtight.home import ROOT, Home
from runtime import __main__ as command
from runtime import local
from runtime.compile import compile_pipeline
from runtime.compiled_store import current, path_of
from tests.tiny_pipeline.running import TINY

RUN = ["run", TINY, "--interval", "2013-06", "--run-id", "mine"]


def words(home: Home) -> list[str]:
    return sorted(file.read_text() for file in home.pipeline_root("tiny").glob("write/*/*/words.txt"))


def test_a_run_is_tried_out_in_a_scratch_folder(home, capsys):
    (home.lake / "table").mkdir(parents=True)
    (home.lake / "table" / "rows").write_text("of the real lake")
    published = compile_pipeline(TINY, home)
    before = {path for path in home.path.rglob("*") if "compiled" in path.parts}
    assert command.main(RUN) == 0
    place = Home(home.path / "scratch")
    assert words(place) == ["word word word"]
    assert not words(home)
    assert not home.metadata_db.exists()
    assert (place.lake / "table" / "rows").read_text() == "of the real lake"
    assert path_of(TINY, home) == published
    assert {path for path in home.path.rglob("*") if "compiled" in path.parts and "scratch" not in path.parts} == before
    assert not path_of(TINY, place).exists(), "not even there is it what a DAG would use"
    assert f"The run mine lies in {place.path}." in capsys.readouterr().out


def test_a_run_is_real_when_it_is_asked_to_be(home, capsys):
    assert command.main([*RUN, "--push", "--set", "text=real"]) == 0
    assert words(home) == ["real real real"]
    assert not (home.path / "scratch").exists()
    assert not path_of(TINY, home).exists(), "what DAGs use stays theirs"


@pytest.mark.slow
def test_several_pipelines_are_compiled_each_by_itself(home, tmp_path, monkeypatch, capfd):
    """What one of them imports is no part of the next, and a change to it makes only the one stale."""
    for name in ("one", "two"):
        (tmp_path / f"{name}_helper.py").write_text("")
        (tmp_path / f"{name}_of_two.py").write_text(
            f"import {name}_helper\nfrom tests.tiny_pipeline.pipeline import PARAMETERS, create_pipeline\n"
        )
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    sources = [f"{name}_of_two:create_pipeline" for name in ("one", "two")]
    assert command.main(["compile", *sources]) == 0
    printed = capfd.readouterr().out
    for source, own in zip(sources, ("one", "two"), strict=True):
        assert f"Compiled {source} to {path_of(source, home)}." in printed
        outside = {name for name in current(source, home).sources if name.startswith(str(tmp_path))}
        assert outside == {f"{tmp_path}/{own}{of}.py" for of in ("_helper", "_of_two")}
    assert command.main(["compile", "no_such_pipeline", sources[0]]) == 64


def test_a_run_that_was_tried_out_is_found_where_it_lies(home, monkeypatch, capsys):
    assert command.main(RUN) == 0
    monkeypatch.setenv("AIRTIGHT_HOME", str(home.path))
    for options, received in (([], "There is no run mine"), (["--scratch"], "Nothing of the run mine of tiny")):
        assert command.main(["replay", "mine", "--node", "write", *options]) == 64, "it keeps no result of its nodes"
        assert received in capsys.readouterr().err
    for options, removed in (([], "0 artifacts"), (["--scratch"], "2 artifacts")):
        monkeypatch.setenv("AIRTIGHT_HOME", str(home.path))
        assert command.main(["clean", "--days", "0", "--dry-run", *options]) == 0
        assert removed in capsys.readouterr().out


def test_a_scratch_folder_forgets_where_the_real_services_are(home, monkeypatch):
    for name in ("AIRTIGHT_METADATA", "AIRTIGHT_MODEL_SERVER", "AIRTIGHT_ROUTER"):
        monkeypatch.setenv(name, "http://real")
    place = local.scratch(home)
    assert Home.current() == place
    assert "http://real" not in os.environ.values()


def test_arguments_of_the_function_are_json_or_text(home, tmp_path, monkeypatch, capsys):
    (tmp_path / "asked_for.py").write_text(
        "from tests.tiny_pipeline.pipeline import PARAMETERS, create_pipeline as tiny\n"
        "def create(n, name):\n    assert (n, name) == (3, 'x=y'), (n, name)\n    return tiny()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = ["run", "asked_for:create", "--interval", "2013-06"]
    assert command.main([*run, "--arg", "n=3", "--arg", "name=x=y"]) == 0
    assert command.main([*run, "--arg", "n=3"]) == 64
    assert "missing a required argument: 'name'" in capsys.readouterr().err
    with pytest.raises(TerminalError, match="command line"):
        local.arguments(["n"])
    sys.modules.pop("asked_for")
