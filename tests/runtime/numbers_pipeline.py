"""A pipeline of eight nodes in files of its own, for the tests of replay, which change them."""

import importlib
import sys
from pathlib import Path

import pytest

from airtight.errors import TerminalError
from airtight.home import Home
from runtime import local, replay, worker
from runtime.compile import compile_pipeline
from runtime.protocol import Outcome, Request

PIPELINE = '''
"""A number, its double, and what is done with it."""
from tfx.dsl.components.common.importer import Importer
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.experimental.conditionals import conditional
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts
from airtight.parameters import Parameter
from runtime.task_options import task
from runtime.parameters import runtime_parameter
from {name} import steps

START = Parameter("start", "int", 1)
PARAMETERS = (START,)


def create_pipeline() -> Pipeline:
    imported = Importer(source_uri="{data}", artifact_type=standard_artifacts.Schema).with_id("imported")
    made = steps.make(start=runtime_parameter(START), data=imported.outputs["result"]).with_id("make")
    latest = Resolver(strategy_class=LatestArtifactStrategy, number=made.outputs["number"]).with_id("latest")
    doubled = steps.double(number=latest.outputs["number"], times=2).with_id("double")
    asked = steps.ask(number=made.outputs["number"]).with_id("ask")
    with conditional.Cond(asked.outputs["answer"].future()[0].value == 1):
        told = steps.tell(doubled=doubled.outputs["doubled"], number=made.outputs["number"]).with_id("tell")
    pushed = steps.push(doubled=doubled.outputs["doubled"], folder="{folder}").with_id("push")
    measured = task(steps.measure(number=made.outputs["number"]).with_id("measure"), cache=False)
    {options}
    nodes = [imported, made, latest, doubled, asked, told, pushed, measured]
    return Pipeline(pipeline_name="numbers", components=nodes, enable_cache=True)
'''
STEPS = '''
import json
import os
import time
from pathlib import Path
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from airtight.home import Home
from {name} import helping


def outside(parameters):
    (Home.current().lake / "_note").write_text("read")
    return f"{Home.current().lake.resolve()}: " + (Home.current().lake / "table" / "version").read_text()


@component
def make(
    number: OutputArtifact[standard_artifacts.Model],
    data: InputArtifact[standard_artifacts.Schema],
    start: Parameter[int],
) -> None:
    """Makes it."""
    value = helping.text(start) + (Path(data.uri) / "more").read_text()
    Path(number.uri, "number").write_text(value)
    number.set_int_custom_property("start", start)


@component
def double(
    number: InputArtifact[standard_artifacts.Model],
    doubled: OutputArtifact[standard_artifacts.ModelEvaluation],
    times: Parameter[int],
) -> None:
    """Doubles it."""
    value = int(Path(number.uri, "number").read_text()) * times
    told = {"value": value, "seconds": time.time(), "place": number.uri}
    Path(doubled.uri, "told.json").write_text(json.dumps(told))


@component
def ask(number: InputArtifact[standard_artifacts.Model], answer: OutputArtifact[standard_artifacts.Integer]) -> None:
    """Asks."""
    answer.value = 1


@component
def tell(
    doubled: InputArtifact[standard_artifacts.ModelEvaluation],
    number: InputArtifact[standard_artifacts.Model],
    told: OutputArtifact[standard_artifacts.ModelRun],
) -> None:
    """Tells."""
    helping.trouble(number.uri)
    Path(told.uri, "a").write_bytes(helping.random())


@component
def push(
    doubled: InputArtifact[standard_artifacts.ModelEvaluation],
    pushed: OutputArtifact[standard_artifacts.PushedModel],
    folder: Parameter[str],
) -> None:
    """Acts on the world."""
    with Path(folder, "pushed").open("a") as file:
        file.write("x")


@component
def measure(
    number: InputArtifact[standard_artifacts.Model], measured: OutputArtifact[standard_artifacts.ModelRun]
) -> None:
    """Depends on the machine."""
    Path(measured.uri, "time").write_text(str(time.time()))
'''
HELPING = """
import os


def text(number):
    return str(number)


def random():
    return b"not at all"


def trouble(place):
    pass
"""
NODES = ["imported", "make", "latest", "double", "ask", "tell", "push", "measure"]


class Numbers:
    """A pipeline whose files a test may change, as a person would after a run."""

    def __init__(self, home: Home, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.name, self.options = home, name, "pass"
        self.folder, self.data = folder / name, folder / "data"
        self.monkeypatch = monkeypatch
        self.lines: list[str] = []
        self.data.mkdir()
        (self.data / "more").write_text("0")
        self.write("__init__", "")
        self.write("steps", STEPS)
        self.write("helping", HELPING)

    def write(self, module: str, text: str) -> None:
        self.folder.mkdir(exist_ok=True)
        given = {"{name}": self.name, "{data}": str(self.data), "{folder}": str(self.folder)}
        for name, value in (given | {"{options}": self.options}).items():
            text = text.replace(name, value)
        (self.folder / f"{module}.py").write_text(text, encoding="utf-8")
        for known in [m for m in sys.modules if m == self.name or m.startswith(f"{self.name}.")]:
            del sys.modules[known]
        importlib.invalidate_caches()

    def run(self, run: str, **values: int) -> dict[str, Outcome]:
        self.write("pipeline", PIPELINE)
        compiled = compile_pipeline(f"{self.name}.pipeline:create_pipeline", self.home)
        outcomes = local.run(compiled, self.home, run, values)
        assert {outcome.state for outcome in outcomes.values()} <= {"complete", "cached"}, outcomes
        return outcomes

    def here(self, request: Request) -> Outcome:
        """Does a request in this process, which keeps its environment."""
        with self.monkeypatch.context() as patched:
            patched.setenv("AIRTIGHT_HOME", request.home)
            return worker.do(request)

    def replay(self, run: str, **options: object) -> dict[str, replay.Replayed]:
        self.lines.clear()
        done = replay.replay(run, self.home, say=self.lines.append, do=self.here, **options)
        return {result.node: result for result in done}

    def refused(self, run: str, **options: object) -> str:
        with pytest.raises(TerminalError) as raised:
            self.replay(run, **options)
        return str(raised.value)

    def line(self, node: str) -> str:
        (line,) = [line for line in self.lines if line.split()[0] == node]
        return " ".join(line.split())
