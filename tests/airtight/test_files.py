"""A reader sees the whole of a file or folder, or nothing."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from airtight import files
from airtight.errors import TransientError


def test_a_file_that_breaks_half_way_leaves_the_old_one(tmp_path: Path):
    target = tmp_path / "verdict.json"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError), files.new_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["verdict.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "model" / "1"
    with pytest.raises(RuntimeError), files.new_folder(target) as temporary:
        (temporary / "half").write_text("x")
        raise RuntimeError
    assert list((tmp_path / "model").iterdir()) == []
    with files.new_folder(target) as temporary:
        (temporary / "whole").write_text("x")
        assert not target.exists()
    assert (target / "whole").read_text() == "x"


def test_a_folder_that_is_there_is_never_overwritten(tmp_path: Path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "kept").touch()
    with pytest.raises(FileExistsError), files.new_folder(tmp_path / "1") as temporary:
        (temporary / "new").touch()
    assert [p.name for p in (tmp_path / "1").iterdir()] == ["kept"]


def test_a_full_disk_is_a_transient_fault_in_words(tmp_path: Path):
    target = tmp_path / "big"
    with pytest.raises(TransientError, match=r"no room left .*big"), files.new_file(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_the_digest_of_a_tree_knows_names_and_bytes(tmp_path: Path):
    def tree(name: str, **contents: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file, text in contents.items():
            (folder / file).write_text(text)
        return folder

    same = {files.digest_of_tree(tree("a", x="1", y="2")), files.digest_of_tree(tree("b", y="2", x="1"))}
    assert len(same) == 1
    assert files.digest_of_tree(tree("c", x="12", y="")) not in same
    assert files.digest_of_tree(tree("d", x="1", z="2")) not in same


def test_what_a_killed_process_left_is_removed_and_what_is_being_made_is_not(tmp_path: Path, monkeypatch):
    script = (
        "import sys, pathlib, time; from airtight import files\n"
        "with files.new_folder(pathlib.Path(sys.argv[1])) as made:\n"
        "    (made / 'half').touch(); print('there', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "7")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "there\n"
    made = next(tmp_path.glob(".7.*.tmp"))
    (tmp_path / ".8.0123.tmp").mkdir()  # Not a name that this module gives.
    monkeypatch.setattr(files, "ABANDONED_S", 0.0)
    assert files.remove_abandoned(tmp_path) == []
    process.kill()
    process.communicate()
    monkeypatch.setattr(files, "ABANDONED_S", 600.0)
    assert files.remove_abandoned(tmp_path) == []  # Young: perhaps just made, and not held yet.
    monkeypatch.setattr(files, "ABANDONED_S", 0.0)
    assert files.remove_abandoned(tmp_path) == [made.name]
    assert [path.name for path in tmp_path.iterdir()] == [".8.0123.tmp"]
    assert files.remove_abandoned(tmp_path / "nothing") == []
