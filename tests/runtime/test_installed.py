"""What a process has imported, beside what is installed."""

import sys
from pathlib import Path

import pytest

from airtight import fingerprint
from runtime import installed
from runtime.installed import Imported
from tests.runtime.toy_distribution import install


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("toylib", "otherlib"):
        sys.modules.pop(name, None)


def imported(site: Path, version: str = "1.0") -> Imported:
    install(site, "toylib", version)
    return Imported.by(("toylib",))


def test_the_imported_version_is_noted(site):
    noted = imported(site)
    assert noted.versions["toylib"] == sys.modules["toylib"].VERSION == "1.0"
    assert noted.changes() == []


def test_an_upgrade_is_a_change(site):
    noted = imported(site)
    install(site, "toylib", "2.0")
    assert noted.changes() == ["toylib-1.0.dist-info was imported, toylib-2.0.dist-info is installed"]


def test_a_reinstallation_of_the_same_version_is_a_change(site):
    noted = imported(site)
    install(site, "toylib", "1.0")
    assert noted.changes() == ["toylib-1.0.dist-info was imported, toylib-1.0.dist-info is installed"]


def test_a_removal_is_a_change(site):
    noted = imported(site)
    install(site, "toylib", "")
    assert noted.changes() == ["toylib-1.0.dist-info was imported, nothing is installed"]


def test_what_was_not_imported_may_change(site):
    install(site, "otherlib", "1.0")
    noted = imported(site)
    install(site, "otherlib", "2.0")
    assert noted.changes() == []


def test_an_upgrade_during_the_import_is_a_change(site):
    install(site, "toylib", "1.0")
    code = "from tests.runtime.toy_distribution import install\nimport pathlib\n"
    (site / "meddler.py").write_text(f"import toylib\n{code}install(pathlib.Path({str(site)!r}), 'toylib', '2.0')\n")
    try:
        assert Imported.by(("meddler",)).changes()
    finally:
        sys.modules.pop("meddler", None)


def test_pinned_versions_outlast_an_upgrade(site, monkeypatch):
    monkeypatch.setattr(fingerprint, "_pinned", {})
    noted = imported(site)
    install(site, "toylib", "2.0")
    assert fingerprint.versions(["toylib"]) == {"toylib": "2.0"}
    fingerprint.pin_versions(noted.versions)
    assert fingerprint.versions(["ToyLib"]) == {"ToyLib": "1.0"}


def test_the_projects_modules_are_forgotten_when_a_file_of_theirs_changed(site, monkeypatch):
    for package in installed.OWN:
        (site / package).mkdir()
        (site / package / "some.py").write_text("")
    monkeypatch.setattr(installed, "ROOT", site)
    for name in [name for name in sys.modules if name.partition(".")[0] in installed.OWN]:
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    noted = imported(site)
    noted.forget_changed_code()
    assert "runtime.installed" in sys.modules
    (site / "runtime" / "new.py").write_text("")
    noted.forget_changed_code()
    assert not [name for name in sys.modules if name.partition(".")[0] in installed.OWN]
