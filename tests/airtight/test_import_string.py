"""User code is named by string; a wrong name is refused in words."""

import sys

import pytest

from airtight.errors import TerminalError
from airtight.import_string import load


def test_a_name_is_loaded():
    assert load("airtight.import_string:load") is load


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("airtight.import_string", "package.module:attribute"),
        ("airtight.nowhere:x", "no module named"),
        ("airtight.import_string:laod", "did you mean 'load'"),
    ],
)
def test_a_wrong_name_is_refused(name, message):
    with pytest.raises(TerminalError, match=message):
        load(name)


def test_a_broken_import_inside_the_module_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import surely_not_installed\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        load("needs_more:x")
