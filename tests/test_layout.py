"""Policies of the whole checkout, discovered: a new step, DAG or module falls under them by being there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from airtight.home import ROOT

GIVEN = ("dags", "pipelines", "components", "plugins", "tests", "docker-compose.yaml", "requirements.txt", "Makefile")
GENERIC = ("airtight", "commands", "components", "plugins", "runtime", "serving", "services", "streaming")
SHARED = (*(folder for folder in GENERIC if folder not in GIVEN), "benchmarks", "docs", "docker")
PYTHON = (*GENERIC, "dags", "pipelines")
RUFF = [sys.executable, "-m", "ruff"]
HEAVY = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["flake8-tidy-imports"][
    "banned-module-level-imports"
]
STEPS = sorted(
    path.stem
    for path in (ROOT / "components").glob("*.py")
    if any(
        "component" in ast.unparse(d)
        for f in ast.parse(path.read_text()).body
        for d in getattr(f, "decorator_list", [])
    )
)
LIGHT = re.compile(r"pipelines\.\w+(\.(settings|features|clock)(\.\w+)?)?$")
DAGS = sorted((ROOT / "dags").glob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere, dotted."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return modules


def test_the_given_folders_and_files_are_there() -> None:
    assert [name for name in (*GIVEN, *SHARED) if not (ROOT / name).exists()] == []


def test_there_are_steps() -> None:
    assert {"ingest", "push", "try_serving"} <= set(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_imports_no_other_step_and_no_pipeline(step: str) -> None:
    modules = imports(ROOT / "components" / f"{step}.py")
    assert not [m for m in modules for other in STEPS if other != step and m.startswith(f"components.{other}")]
    assert not [m for m in modules if m.split(".")[0] in ("pipelines", "plugins", "services", "airflow", "dags")]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_keeps_its_annotations(step: str) -> None:
    """TFX reads them as objects; with the future import they would be strings."""
    assert "__future__" not in imports(ROOT / "components" / f"{step}.py")


def test_nothing_but_its_demo_and_dags_knows_about_flights() -> None:
    generic = [p for folder in GENERIC for p in (ROOT / folder).rglob("*.py")]
    assert [str(p) for p in generic if any(m.startswith("pipelines.") for m in imports(p))] == []


SUBJECT = re.compile(
    r"\b(flights?|flight_\w+|carriers?|airports?|airlines?|tailnum\w*|(dep|arr)_delay\w*|minutes late)\b", re.IGNORECASE
)


def test_what_is_generic_says_nothing_of_the_examples_subject() -> None:
    folders = [ROOT / folder for folder in GENERIC]
    suffixes = (".py", ".html", ".conf", ".js", ".css", ".jinja", ".java", ".properties")
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.suffix in suffixes]
    assert len(files) > 100
    spoken = {
        str(file.relative_to(ROOT)): sorted(set(match[0] for match in SUBJECT.finditer(text)))
        for file in files
        if SUBJECT.search(text := file.read_text(encoding="utf-8"))
    }
    assert spoken == {}


@pytest.mark.parametrize(("pipeline", "most"), [("flight_delays", 2500), ("bike_demand", 300)])
def test_a_pipelines_folder_stays_small_without_its_tests(pipeline: str, most: int) -> None:
    files = (ROOT / "pipelines" / pipeline).glob("*.py")
    assert 0 < sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= most


def test_every_fault_says_what_was_expected_what_came_and_what_to_do() -> None:
    lacking = []
    for path in (p for folder in PYTHON for p in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("TerminalError", "TransientError"):
                fields = {keyword.arg for keyword in node.keywords}
                if not {"expected", "received", "remedy"} <= fields:
                    lacking.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert lacking == []


PARSED = (
    "dags/x.py",
    "plugins/tfx_airflow/x.py",
    "airtight/x.py",
    "services/x.py",
    "runtime/client.py",
    "runtime/fresh_pipelines.py",
    "runtime/compiled_pipeline.py",
    "runtime/compiled_store.py",
    "pipelines/some/settings.py",
    "pipelines/some/features.py",
)
RUN = ("components/x.py", "runtime/launch.py", "serving/x.py", "tests/x.py", "pipelines/some/transform.py")


@pytest.mark.parametrize(("path", "banned"), [(p, len(HEAVY)) for p in PARSED] + [(p, 0) for p in RUN])
def test_lint_bans_heavy_modules_where_airflow_parses_and_only_there(path: str, banned: int) -> None:
    command = [*RUFF, "check", "--select", "TID253", "--output-format", "concise", "--stdin-filename", path, "-"]
    code = "".join(f"import {module}\n" for module in HEAVY)
    output = subprocess.run(command, input=code, cwd=ROOT, capture_output=True, text=True).stdout
    assert output.count("TID253") == banned


def test_what_must_be_light_is_light() -> None:
    """The lint rule sees one file at a time; this sees what an import brings along."""
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for folder in ("airtight", "services")
        for p in (ROOT / folder).glob("*.py")
        if not p.stem.startswith("__")
    ] + [
        f"runtime.{name}"
        for name in (
            "compiled_pipeline",
            "compiled_store",
            "client",
            "containers",
            "fresh_pipelines",
            "logs",
            "protocol",
        )
    ]
    code = f"import sys; [__import__(m) for m in {modules}]; print(sorted({{m.split('.')[0] for m in sys.modules}}))"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(ast.literal_eval(output)) & set(HEAVY) == set()


@pytest.mark.parametrize("dag", DAGS, ids=lambda path: path.stem)
def test_a_dag_file_is_documented_wiring(dag: Path) -> None:
    assert ast.get_docstring(ast.parse(dag.read_text(encoding="utf-8"))), "people read it first"
    modules = {name for name in imports(dag) if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name.split(".")[0] for name in modules} <= {"airflow", "airtight", "pendulum", "pipelines", "plugins"}
    # Of a pipeline only what is light by the lint rule above.
    assert not [name for name in modules if name.startswith("pipelines.") and not LIGHT.match(name)]


VAGUE = {"told", "said", "found", "asked"}
"""Names that fit any value, and so tell a reader nothing of this one."""


def bound_names(node: ast.AST) -> list[str]:
    """What a node of a syntax tree gives a name to: variables, parameters, fields, functions, classes, imports."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return [name]
        case ast.alias(asname=str(name)):
            return [name]
    return []


def test_no_name_fits_any_value() -> None:
    folders = (*PYTHON, "benchmarks", "tests")
    paths = [*ROOT.glob("*.py"), *(path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))]
    assert len(paths) > 500
    vague = {
        f"{path.relative_to(ROOT)}:{node.lineno}": name
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in bound_names(node)
        if name.strip("_") in VAGUE
    }
    assert vague == {}
