"""What a module's code consists of, found without importing it."""

import ast
import gc
import sys

import pytest

from airtight import fingerprint

FILES = {
    "ours_code/__init__.py": "",
    "ours_code/model.py": "import keras, json\nfrom ours_code import trees\nfrom .words import say\n",
    "ours_code/trees.py": "def grow():\n    import numpy as np\n    from ours_code import roots\n",
    "ours_code/words.py": "def say(): pass\n",
    "ours_code/roots.py": "import ours_code_no_such\n",
    "ours_code/other.py": "",
}


NAMESPACE = {
    "ours_team/main.py": "from ours_team.feats import helper\nfrom ours_team import feats\n",
    "ours_team/dotted.py": "import ours_team.feats.helper\n",
    "ours_team/feats/helper.py": "from . import deeper\n",
    "ours_team/feats/deeper.py": "VALUE = 1\n",
    "ours_team/walks.py": "from ours_team import plug\nimport pkgutil\n"
    "for m in pkgutil.iter_modules(plug.__path__): pass\n",
    "ours_team/plug/one.py": "",
    "ours_team/plug/two/three.py": "",
    "ours_team/prefix.py": "from importlib import import_module as load\n"
    "def get(n): return load(f'ours_team.plug.{n}')\n",
    "ours_team/constant.py": "__import__('ours_team.plug.one')\n",
    "ours_computed/__init__.py": "",
    "ours_computed/main.py": "import importlib\ndef get(n): return importlib.import_module(f'{__package__}.{n}')\n",
    "ours_computed/relative.py": "import importlib\nimportlib.import_module('.late', __package__)\n",
    "ours_computed/late.py": "",
    "ours_script.py": "def get(n): return __import__(n)\n",
    "ours_beside.py": "",
}


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    for name, text in NAMESPACE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    fingerprint.look_again()
    return lambda module: {
        file.removeprefix(f"{tmp_path}/") for file in fingerprint.closure([module])[0] if file.startswith(str(tmp_path))
    }


@pytest.mark.parametrize(
    ("module", "files"),
    [
        ("ours_team.main", {"ours_team/feats/helper.py", "ours_team/feats/deeper.py"}),
        ("ours_team.dotted", {"ours_team/feats/helper.py", "ours_team/feats/deeper.py"}),
        ("ours_team.walks", {f"ours_team/{n}.py" for n in ("plug/one", "plug/two/three", "main", "prefix")}),
        ("ours_team.prefix", {"ours_team/plug/one.py", "ours_team/plug/two/three.py"}),
        ("ours_team.constant", {"ours_team/plug/one.py"}),
        ("ours_computed.main", {"ours_computed/late.py", "ours_computed/__init__.py"}),
        ("ours_computed.relative", {"ours_computed/late.py"}),
        ("ours_script", {"ours_beside.py"}),
    ],
)
def test_packages_without_init_and_computed_names_are_followed(namespace, module, files):
    own = module.replace(".", "/") + ".py"
    assert files | {own} <= namespace(module)
    assert "ours_team" not in sys.modules, "nothing is imported to find out"


def test_a_template_beside_the_code_is_a_file_like_any_other(namespace, tmp_path):
    """Nobody imports it, and nobody could."""
    (tmp_path / "ours_team" / "plug" / "template.py").write_text("import {{ name }}\n")
    (tmp_path / "ours_team" / "plug" / "binary.py").write_bytes(b"\0")
    fingerprint.look_again()
    assert {f"ours_team/plug/{n}.py" for n in ("one", "template", "binary")} <= namespace("ours_team.walks")


def test_a_constant_name_takes_no_more_than_that_module(namespace):
    assert namespace("ours_team.constant") == {"ours_team/constant.py", "ours_team/plug/one.py"}
    assert namespace("ours_computed.relative") == {f"ours_computed/{n}.py" for n in ("__init__", "relative", "late")}


def test_what_loads_code_by_a_parameter_takes_no_neighbours():
    assert fingerprint.closure(["airtight.import_string"])[0] == (
        "airtight/__init__.py",
        "airtight/errors.py",
        "airtight/import_string.py",
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "ours_code").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    fingerprint.look_again()
    return tmp_path


def test_it_is_the_module_and_all_that_this_imports_wherever_the_import_stands(folder):
    files, packages = fingerprint.closure(["ours_code.model"])
    names = [file.rpartition("/")[2] for file in files]
    assert names == ["__init__.py", "model.py", "roots.py", "trees.py", "words.py"]
    assert packages == ("keras", "numpy")
    assert "ours_code" not in sys.modules, "nothing is imported to find out"


def test_python_that_runs_during_a_collection_does_not_disturb_it(folder):
    def parse_again(*unused):
        # As a finalizer that logs a traceback: rendering it parses its lines.
        ast.parse("(1 + (2 + 3))")

    (folder / "ours_code" / "words.py").write_text("".join(f"import some_{n}\n" for n in range(500)))
    before = gc.get_threshold()
    gc.callbacks.append(parse_again)
    gc.set_threshold(20)
    try:
        fingerprint.closure(["ours_code.words"])
        assert gc.isenabled()
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(parse_again)


def test_what_was_found_is_recognised(folder):
    files, _ = fingerprint.closure(["ours_code.model"])
    assert fingerprint.is_in("ours_code.trees", files)
    assert not fingerprint.is_in("ours_code.other", files)
    assert fingerprint.is_in("numpy", files), "none of ours"


def test_a_changed_file_has_another_digest_and_a_removed_one_is_told(folder):
    files, packages = fingerprint.closure(["ours_code.words"])
    before = fingerprint.digests(files)
    (folder / "ours_code" / "words.py").write_text("def say(): return 1\n")
    after = fingerprint.digests(files)
    assert [name.rpartition("/")[2] for name in files if before[name] != after[name]] == ["words.py"]
    (folder / "ours_code" / "words.py").unlink()
    assert "gone" in fingerprint.digests(files).values()
    assert packages == ()
    assert fingerprint.versions(["pytest", "no-such-distribution"]) == {
        "pytest": pytest.__version__,
        "no-such-distribution": "gone",
    }


@pytest.mark.parametrize(
    ("value", "module"),
    [("a.b:c", "a.b"), ("a:c", "a"), ("a.b", ""), ("a b:c", ""), ("http://x", ""), ("2013-06:x", "")],
)
def test_a_parameter_names_code_or_does_not(value, module):
    assert fingerprint.module_of(value) == module
