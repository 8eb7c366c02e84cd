"""What Airflow parses is light, and the plugin loader meets the plugin only."""

import itertools
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from airtight.home import ROOT, Home
from airtight.import_string import load_module
from airtight.supervised import BY_INTERVAL, OPERATIONS, Supervised
from plugins.tfx_airflow import supervised as supervised_dags_module
from runtime.fresh_pipelines import fresh_all
from tests.tiny_pipeline.running import TINY

HEAVY = (
    *("tensorflow", "keras", "tfx", "ml_metadata", "apache_beam"),
    *("pyspark", "great_expectations", "pandas", "pyarrow"),
)
DAG_FILES = sorted((ROOT / "dags").glob("*.py"))
SETTINGS_FILES = sorted((ROOT / "pipelines").glob("*/settings.py"))


def modules_after(code: str, home: Path) -> set[str]:
    script = f"{code}\nimport sys\nprint('MODULES', *sorted({{n.split('.')[0] for n in sys.modules}}))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "AIRTIGHT_HOME": str(home), "AIRFLOW_HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("MODULES")]
    return set(line.split()[1:])


def test_rendering_a_dag_imports_nothing_heavy(home):
    code = f"from plugins.tfx_airflow import TfxDag\nassert TfxDag({TINY!r}, schedule=None).has_task('write')"
    assert modules_after(code, home.path) & set(HEAVY) == set()


def declared() -> list[Supervised]:
    """All supervised pipelines of the checkout."""
    modules = [load_module(f"pipelines.{file.parent.name}.settings") for file in SETTINGS_FILES]
    return [value for module in modules for value in vars(module).values() if isinstance(value, Supervised)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """A state folder in which one process has compiled the supervised pipelines."""
    folder = tmp_path_factory.mktemp("compiled")
    fresh_all([settings.source(part) for settings in declared() for part in settings.parts], Home(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file", DAG_FILES, ids=lambda file: file.stem)
def test_parsing_a_dag_file_imports_nothing_heavy(file, compiled):
    # The first parse compiles what is missing, here flight_delays_close, in a process of its own.
    code = f"import runpy\nrunpy.run_path({str(file)!r})"
    assert modules_after(code, compiled) & set(HEAVY) == set()


def test_every_dag_is_made_once_and_operations_in_files_of_their_own(monkeypatch):
    made: dict[str, list[tuple[str, str]]] = {}

    def note(*pipelines, parts=()):
        made[file.stem] = [(p.name, part) for p in pipelines for part in p.parts if not parts or part in parts]
        return {}

    monkeypatch.setattr(supervised_dags_module, "supervised_dags", note)
    for file in DAG_FILES:
        if "supervised_dags(" in file.read_text():
            runpy.run_path(str(file))
    assert sorted(itertools.chain(*made.values())) == sorted((s.name, part) for s in declared() for part in s.parts)
    assert {part for parts in made.values() for _, part in parts} == {*BY_INTERVAL, *OPERATIONS}
    for parts in made.values():
        assert len({part in OPERATIONS for _, part in parts}) == 1


def test_the_plugin_loader_sees_the_plugin_only(monkeypatch):
    from airflow._shared.module_loading import find_path_from_directory

    names = [Path(file).name for file in find_path_from_directory(str(ROOT / "plugins"), ".airflowignore", "glob")]
    assert [name for name in names if name.endswith(".py")] == ["airtight_plugin.py"]
