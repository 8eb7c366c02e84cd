"""What a supervised pipeline is made of: one frozen object, which DAG files import without TFX.

    SETTINGS = Supervised(
        name="bike_demand",
        zone="Europe/Berlin",
        tables=".lake:TABLES",
        schema=".features:SCHEMA",
        transform=".transform:transform",
        first=date(2012, 1, 1),
    )

It stands in `settings.py` of the pipeline's package. Its pipelines, each a part with an id of its own, are made by
`components.supervised`, and their DAGs by `plugins.tfx_airflow.supervised`.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

from airtight.errors import TerminalError
from airtight.import_string import load, load_module
from airtight.interval import Interval, time_zone
from airtight.parameters import Parameter, Scalar
from airtight.rollout.parameters import RELEASING
from airtight.supervised_parameters import (
    ALARM_ACTS,
    BATCH_PREDICTION,
    DATA_FAULTS,
    LABELLING,
    PROMOTION,
    TRAINING,
    WATCHING,
)
from airtight.watch.settings import Labels, Watch

TRAIN, PROMOTE, RELEASE, BATCH_PREDICT = "train", "promote", "release", "batch_predict"
ALARMS, WATCH, LABELS = "alarms", "watch", "labels"
"""The parts. The id of the first is the pipeline's name, which is also the served model's; that of another part adds
`_` and the part."""
BY_INTERVAL = (TRAIN, BATCH_PREDICT, WATCH, LABELS)
"""The parts that run interval by interval, and are made of the pipeline's own code."""
OPERATIONS = (PROMOTE, RELEASE, ALARMS)
"""The parts by which people say which version is served, and what is done about alarms. They are made of the settings
alone, so they compile when the pipeline's other code does not."""
PROMOTIONS = {PROMOTE: "promote", RELEASE: "finish", LABELS: "take_back"}
"""The parts that put a version before the requests beside the push, each with the node that makes `promotion`."""
PARAMETERS = {
    **{TRAIN: TRAINING, PROMOTE: PROMOTION, RELEASE: RELEASING, ALARMS: ALARM_ACTS},
    **{BATCH_PREDICT: BATCH_PREDICTION, WATCH: WATCHING, LABELS: LABELLING},
}
"""The run parameters of each part, without what settings change."""
SUFFIXES = tuple(f"_{part}" for part in PARAMETERS if part != TRAIN)
"""Ends of the parts' ids. No pipeline's name has one: its id would be that of another pipeline's part."""
NODES = {
    TRAIN: (
        *("ingest", "clear_training", "validate", "transform", "train", "champion", "evaluate", "try_serving"),
        *("push", "monitor"),
    ),
    PROMOTE: ("propose", "promote"),
    RELEASE: ("start", "judge", "finish"),
    ALARMS: ("act_on_alarm",),
    BATCH_PREDICT: ("ingest", "validate", "transform", "batch_predict"),
    WATCH: (
        *("ingest", "validate", "transform", "summarize", "champion", "challenger", "days_before", "data_alarms"),
        "decide",
    ),
    LABELS: (
        *("ingest", "validate", "transform", "skew", "answers", "former", "label_quality", "judge_promotion"),
        "take_back",
    ),
}
"""Ids of the nodes of each part; `clear_training` is there where there is a watch, `skew` in the place of `answers`
where there is a log."""
_OPTIONAL = ("expectations", "fill_lake", "stream", "in_words")
_IMPORT_STRINGS = ("tables", "schema", "transform", "model", *_OPTIONAL)
_NAME = re.compile(r"[A-Za-z]\w*")
_ROUTE = re.compile(r"[A-Za-z0-9_.-]+")
_IMPORT_STRING = re.compile(r"\.?[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """The settings of one supervised pipeline.

    Code is named by import string, `package.module:attribute`; one that begins with a dot is in `package`.

    Args:
      name: Id of the training pipeline, of its DAG and of the served model.
      tables: The tables of the lake (`components.data.lake.Table`), a tuple.
      schema: The `components.schema.ExampleSchema`.
      transform: The function (table) -> DataFrame of examples, where table gives a table's rows by name.
      zone: IANA time zone of bare dates, and of the days of the lake.
      package: The package whose module `settings` holds this object; "" is `pipelines.<name>`.
      expectations: The function (DatasetReader, SparkSession) -> subjects of Great Expectations; "" expects nothing
        beyond the tables' own schemas.
      model: The model function.
      title: What the UI calls it; "" makes it of the name.
      description: What it predicts, a sentence or two for the UI.
      doc: Markdown for the training DAG; "" has it made of title and description.
      schedule: Cron expression of the data intervals; "" leaves triggering to people.
      first: Local day on which the first interval begins.
      last: Local day on which the last interval ends, or None.
      tags: Of the DAGs, beside `tfx`.
      dag: Further arguments of the training and batch prediction DAGs, as of `airflow.sdk.DAG`.
      lookback_days: Days of history that a row's features need.
      warm_start: Whether training starts from the champion's weights, and so waits for the run of the interval before.
      release: The default of the parameter `release`, "at_once" or "canary". "" has each pushed version served, and no
        DAGs that promote or release.
      approvers: Names of the Airflow users who may approve a promotion, what is done about alarms, or that a gate is
        overridden; with none, everybody may who may answer Airflow's required actions, and overriding asks nobody.
      batch_predictions: Whether there is a DAG that scores whole intervals.
      watch: How the served model and its data are watched day by day, and when it is trained anew
        (`airtight.watch.settings.Watch`); None has nothing watch it.
      labels: How predictions are judged as their labels come, and a promotion that loses is taken back
        (`airtight.watch.settings.Labels`); None judges none. It needs `release`.
      compare: Name of another pipeline that the page of all runs sets beside this one.
      defaults: Other defaults of run parameters, by the parameter's name.
      node_parameters: By a node's id, further parameters of its component; one whose value is an
        `airtight.parameters.Parameter` stands on the trigger form.
      components: Nodes to replace: by the node's id the function, or its import string, that is given the inputs and
        parameters of the usual component as keyword arguments and returns a node with the same outputs.
      interval: The interval of `make demo`; "" is the month of `first`.
      fill_lake: The function (Path) -> None that fills the lake at this path where it is not filled yet.
      stream: The `streaming.windows.declaration.Stream` whose broker and topics `make demo` starts, too.
      in_words: The function (commands.demo.Answer, Home) -> str that tells what the served model answered to a row.
      online: By the name of a route of the router, `POST /v1/NAME:predict`, the `serving.router.online.Lookup` that
        fills in the features for this pipeline's model.
      builder: The function (Supervised, part) -> tfx Pipeline.

    Raises:
      TerminalError: A name, an import string, a zone or a default that is none.
    """

    name: str
    tables: str
    schema: str
    transform: str
    zone: str = "UTC"
    package: str = ""
    expectations: str = ""
    model: str = "components.modelling.tabular:build"
    title: str = ""
    description: str = ""
    doc: str = ""
    schedule: str = "0 0 1 * *"
    first: date = date(2000, 1, 1)
    last: date | None = None
    tags: tuple[str, ...] = ()
    dag: Mapping[str, Any] = field(default_factory=dict)
    lookback_days: int = 0
    warm_start: bool = False
    release: Literal["at_once", "canary", ""] = "at_once"
    approvers: tuple[str, ...] = ()
    batch_predictions: bool = True
    watch: Watch | None = None
    labels: Labels | None = None
    compare: str = ""
    defaults: Mapping[str, Scalar] = field(default_factory=dict)
    node_parameters: Mapping[str, Mapping[str, Scalar | Parameter]] = field(default_factory=dict)
    components: Mapping[str, str | Callable[..., Any]] = field(default_factory=dict)
    interval: str = ""
    fill_lake: str = ""
    stream: str = ""
    in_words: str = ""
    online: Mapping[str, str] = field(default_factory=dict)
    builder: str = "components.supervised:create_pipeline"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name.endswith(SUFFIXES):
            expected = f"a letter, then letters, digits and _, none of {', '.join(SUFFIXES)} at the end"
            raise self._refusal("name", expected, self.name)
        time_zone(self.zone)
        derived: dict[str, Any] = {
            "package": self.package or f"pipelines.{self.name}",
            "title": self.title or self.name.replace("_", " ").capitalize(),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        for name in _IMPORT_STRINGS:
            object.__setattr__(self, name, self._absolute(name, getattr(self, name)))
        components = {
            node: self._absolute(f"components[{node!r}]", made) if isinstance(made, str) else made
            for node, made in self.components.items()
        }
        object.__setattr__(self, "components", components)
        for route in self.online:
            if not _ROUTE.fullmatch(route):
                raise self._refusal(f"online[{route!r}]", "a name of letters, digits, _, . and -", route)
        online = {route: self._absolute(f"online[{route!r}]", code) for route, code in self.online.items()}
        object.__setattr__(self, "online", online)
        if self.release not in ("at_once", "canary", ""):
            raise self._refusal("release", "at_once, canary or nothing", self.release)
        if self.labels:
            if not self.release:
                raise self._refusal("labels", "release as well: only then can a version be taken back", "no release")
            function = self.labels.function
            function = self._absolute("labels.function", function) if function else self.transform
            object.__setattr__(self, "labels", replace(self.labels, function=function))
        if self.interval:
            Interval.parse(self.interval, self.zone)
        declared = {parameter.name for part in self.parts for parameter in self._declared(part)}
        self._check_names("defaults", "run parameters", declared)
        for what in ("components", "node_parameters"):
            self._check_names(what, "nodes", {node for nodes in NODES.values() for node in nodes})
        for part in self.parts:
            self.run_parameters(part)

    @property
    def parts(self) -> tuple[str, ...]:
        """Those that the pipeline has, training first."""
        served = OPERATIONS if self.release else ()
        scored = (BATCH_PREDICT,) if self.batch_predictions else ()
        return (TRAIN, *served, *scored, *((WATCH,) if self.watch else ()), *((LABELS,) if self.labels else ()))

    def id_of(self, part: str) -> str:
        """Id of a part's pipeline and DAG."""
        return self.name if part == TRAIN else f"{self.name}_{part}"

    def run_parameters(self, part: str = TRAIN) -> tuple[Parameter, ...]:
        """What a person may set for a run of a part, with this pipeline's defaults.

        Raises:
          TerminalError: A default that its parameter cannot take.
        """
        defaults = {**({"release": self.release} if self.release else {}), **self.defaults}
        if self.watch:
            defaults = {"policy": self.watch.policy, "alarms_a_year": self.watch.alarms_a_year, **defaults}
        return tuple(
            replace(
                parameter,
                default=parameter.check(defaults.get(parameter.name, parameter.default)),
                description=parameter.description.replace("{name}", self.name),
            )
            for parameter in self._declared(part)
        )

    @property
    def example_interval(self) -> str:
        """An interval to begin with."""
        return self.interval or f"{self.first:%Y-%m}"

    def default(self, name: str, part: str = TRAIN) -> Scalar:
        """The default of a run parameter."""
        return next(parameter.default for parameter in self.run_parameters(part) if parameter.name == name)

    def source(self, part: str = TRAIN) -> tuple[str, dict[str, Any]]:
        """What `TfxDag` and `python -m runtime` compile for a part: a source, and arguments.

        Raises:
          TerminalError: The module `settings` of `package` does not hold this object.
        """
        module = f"{self.package}.settings"
        if module_of(self.id_of(part)) == module:
            return self.id_of(part), {}
        for name, value in vars(sys.modules.get(module)).items() if module in sys.modules else ():
            if value is self:
                return f"{module}:{name}", {} if part == TRAIN else {"part": part}
        raise self._refusal("package", f"a package whose module {module} holds these settings", self.package)

    def _declared(self, part: str) -> tuple[Parameter, ...]:
        if part != TRAIN:
            return PARAMETERS[part]
        declared = tuple(parameter for parameter in TRAINING if self.release or parameter.name != "release")
        return (*declared, DATA_FAULTS) if self.watch else declared

    def _absolute(self, what: str, name: str) -> str:
        if not _IMPORT_STRING.fullmatch(name) and (name or what not in _OPTIONAL):
            raise self._refusal(what, "an import string, package.module:attribute or .module:attribute", name)
        return f"{self.package}{name}" if name.startswith(".") else name

    def _check_names(self, what: str, kind: str, known: set[str]) -> None:
        for name in set(getattr(self, what)) - known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise self._refusal(what, f"names of {kind}: {', '.join(sorted(known))}{hint}", name)

    def _refusal(self, what: str, expected: str, received: Any) -> TerminalError:
        return TerminalError(
            f"The settings of the pipeline {self.name!r} cannot be used: {what}.",
            expected=expected,
            received=repr(received),
            remedy=f"Correct {what} in the pipeline's settings.",
        )


def find(pipeline: str) -> tuple[Supervised, str]:
    """The settings and the part that an id means.

    Args:
      pipeline: Id of a part of a pipeline of `pipelines/`, such as `bike_demand` or `bike_demand_promote`; or the
        import string of settings, `package.settings:SETTINGS`, which means training.

    Raises:
      TerminalError: There are no such settings.
    """
    if ":" in pipeline:
        settings = load(pipeline)
        if isinstance(settings, Supervised):
            return settings, TRAIN
        raise _unknown(pipeline, f"a {type(settings).__name__}")
    module = module_of(pipeline)
    held = vars(load_module(module)).values() if module else ()
    declared = [settings for settings in held if isinstance(settings, Supervised)]
    for settings in declared:
        for part in settings.parts:
            if settings.id_of(part) == pipeline:
                return settings, part
    ids = [settings.id_of(part) for settings in declared for part in settings.parts]
    raise _unknown(pipeline, f"{module} with {', '.join(ids) or 'no settings'}" if module else "no such folder")


def module_of(pipeline: str) -> str:
    """The module `settings` of the folder of `pipelines/` whose name a pipeline's id begins with; "" for none."""
    words = pipeline.split("_")
    names = ("_".join(words[:count]) for count in range(len(words), 0, -1))
    return next((module for name in names if _is_there(module := f"pipelines.{name}.settings")), "")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _unknown(pipeline: str, received: str) -> TerminalError:
    return TerminalError(
        f"There is no supervised pipeline {pipeline}.",
        expected="the id of a pipeline whose folder of pipelines/ has settings (airtight.supervised.Supervised)",
        received=received,
        remedy="Correct the name, or add pipelines/<name>/settings.py.",
    )
