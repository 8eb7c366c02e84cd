"""Pipelines as strangers write them: resolvers that find nothing yet, conditions, joined branches, loops."""

import os
from pathlib import Path
from typing import List  # noqa: UP035 - TFX reads the annotation

from tfx.components import CsvExampleGen
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.components.common.resolver import Resolver, ResolverStrategy
from tfx.dsl.control_flow.for_each import ForEach
from tfx.dsl.experimental.conditionals import conditional
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.dsl.input_resolution.strategies.span_range_strategy import SpanRangeStrategy
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.pipeline import Pipeline
from tfx.proto.example_gen_pb2 import Input
from tfx.proto.range_config_pb2 import RangeConfig, RollingRange
from tfx.types import Channel, channel, standard_artifacts

Integer = standard_artifacts.Integer
Text = standard_artifacts.String


class Patient(ResolverStrategy):
    """A user's own strategy that may find nothing."""

    def resolve_artifacts(self, store, input_dict):
        if not input_dict["made"]:
            return None
        return {"made": input_dict["made"][-1:]}


class Broken(ResolverStrategy):
    """A user's own strategy with a fault."""

    def resolve_artifacts(self, store, input_dict):
        raise ValueError("no strategy")


@component
def make(made: OutputArtifact[Text], text: Parameter[str] = "made") -> None:
    """Makes a text."""
    made.value = text


@component
def use(used: OutputArtifact[Text], made: InputArtifact[Text] = None) -> None:
    """Notes which text it met, or that there was none."""
    used.value = "nothing" if made is None else made.value


@component
def need(made: InputArtifact[Text], needed: OutputArtifact[Text]) -> None:
    """Cannot do without."""
    needed.value = made.value


@component
def decide(verdict: OutputArtifact[Integer], answer: Parameter[int]) -> None:
    """Writes down the answer."""
    verdict.value = answer


def _latest(strategy: type[ResolverStrategy], **channels) -> Resolver:
    return Resolver(strategy_class=strategy, **channels).with_id("latest")


def _waits_for_its_own(strategy: type[ResolverStrategy]) -> Pipeline:
    """What the resolver waits for is made after its consumer, so the first run must go on without."""
    latest = _latest(strategy, made=Channel(type=Text, producer_component_id="make", output_key="made"))
    used = use(made=latest.outputs["made"])
    made = make()
    made.add_upstream_node(used)
    return Pipeline(pipeline_name="nothing_yet", components=[latest, used, made])


def create_nothing_yet() -> Pipeline:
    """TFX's strategy."""
    return _waits_for_its_own(LatestArtifactStrategy)


def create_nothing_yet_by_own_strategy() -> Pipeline:
    """A user's strategy that returns None."""
    return _waits_for_its_own(Patient)


def create_broken_strategy() -> Pipeline:
    """A user's strategy that raises."""
    return _waits_for_its_own(Broken)


def create_needs_what_is_not_there() -> Pipeline:
    """A consumer that cannot do without what the resolver did not find; another under a condition that holds."""
    latest = _latest(LatestArtifactStrategy, made=Channel(type=Text, producer_component_id="make", output_key="made"))
    needs = need(made=latest.outputs["made"])
    decided = decide(answer=1)
    with conditional.Cond(decided.outputs["verdict"].future()[0].value == 1):
        guarded = need(made=latest.outputs["made"]).with_id("guarded")
    made = make()
    made.add_upstream_node(latest)
    return Pipeline(pipeline_name="needs", components=[latest, needs, decided, guarded, made])


def create_skips() -> Pipeline:
    """Every way to come after a node that its condition skips."""
    decided = decide(answer=RuntimeParameter("answer", ptype=int))
    verdict = decided.outputs["verdict"].future()[0].value
    with conditional.Cond(verdict == 1):
        yes = make(text="yes").with_id("yes")
        with conditional.Cond(yes.outputs["made"].future()[0].value == "yes"):
            nested = make(text="nested").with_id("nested")
    with conditional.Cond(verdict == 0):
        no = make(text="no").with_id("no")
    after = make(text="after").with_id("after")
    after.add_upstream_node(yes)
    optional = use(made=yes.outputs["made"]).with_id("optional")
    required = need(made=yes.outputs["made"]).with_id("required")
    second = need(made=required.outputs["needed"]).with_id("second")
    late = use(made=second.outputs["needed"]).with_id("late")
    both = need(made=after.outputs["made"]).with_id("both")
    both.add_upstream_node(required)
    mixed = need(made=required.outputs["needed"]).with_id("mixed")
    mixed.add_upstream_node(no)
    joined = need(made=channel.union([yes.outputs["made"], no.outputs["made"]])).with_id("joined")
    last = make(text="last").with_id("last")
    last.add_upstream_node(nested)
    return Pipeline(
        pipeline_name="skips",
        components=[
            *(decided, yes, nested, no, after, optional, required, second, late, both, mixed, joined, last),
        ],
    )


def create_for_each() -> Pipeline:
    """A loop over what one node made, and one over what all runs made."""
    made = make()
    with ForEach(made.outputs["made"]) as one:
        looped = need(made=one)
    after = use(made=looped.outputs["needed"])
    return Pipeline(pipeline_name="for_each", components=[made, looped, after])


def create_for_each_of_all_runs() -> Pipeline:
    """Its length is that of the history."""
    made = make()
    with ForEach(Channel(type=Text, producer_component_id="make", output_key="made")) as one:
        looped = need(made=one)
    looped.add_upstream_node(made)
    return Pipeline(pipeline_name="for_each_of_all", components=[made, looped])


def create_for_each_of_nothing() -> Pipeline:
    """A loop over what a resolver does not find on the first run."""
    latest = _latest(LatestArtifactStrategy, made=Channel(type=Text, producer_component_id="make", output_key="made"))
    with ForEach(latest.outputs["made"]) as one:
        looped = need(made=one)
    after = use(made=looped.outputs["needed"])
    made = make()
    made.add_upstream_node(after)
    return Pipeline(pipeline_name="for_each_of_nothing", components=[latest, looped, after, made])


@component
def make_span(examples: OutputArtifact[standard_artifacts.Examples], span: Parameter[int]) -> None:
    """Makes examples of a span, as an ExampleGen with a range does."""
    (Path(examples.uri) / "examples").write_text(str(span), encoding="utf-8")
    examples.set_int_custom_property("span", span)


@component
def window(examples: InputArtifact[List[standard_artifacts.Examples]], spans: OutputArtifact[Text]) -> None:  # noqa: UP006
    """Notes the spans that it met."""
    spans.value = " ".join(str(example.get_int_custom_property("span")) for example in examples)


@component
def train(
    spans: InputArtifact[Text],
    model: OutputArtifact[standard_artifacts.Model],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
    baseline: InputArtifact[standard_artifacts.Model] = None,
) -> None:
    """Trains nothing, and blesses it; TFX's Evaluator names the model by its id."""
    (Path(model.uri) / "weights").touch()
    blessing.set_int_custom_property("blessed", 1)
    model.set_string_custom_property("baseline", "" if baseline is None else baseline.uri)


def create_daily() -> Pipeline:
    """Each run adds a span, takes the last two, and judges its model against the last blessed one."""
    made = make_span(span=RuntimeParameter("span", ptype=int))
    spans = Resolver(
        strategy_class=SpanRangeStrategy,
        config={"range_config": RangeConfig(rolling_range=RollingRange(num_spans=2))},
        examples=Channel(type=standard_artifacts.Examples, producer_component_id="make_span"),
    ).with_id("spans")
    spans.add_upstream_node(made)
    seen = window(examples=spans.outputs["examples"])
    latest = _latest(
        LatestArtifactStrategy,
        model=Channel(type=standard_artifacts.Model),
        blessing=Channel(type=standard_artifacts.ModelBlessing),
    )
    trained = train(spans=seen.outputs["spans"], baseline=latest.outputs["model"])
    return Pipeline(pipeline_name="daily", components=[made, spans, seen, latest, trained])


def create_latest_span() -> Pipeline:
    """TFX's ExampleGen on the latest of many folders."""
    wanted = Input(splits=[Input.Split(name="all", pattern="day{SPAN}/*")])
    examples = CsvExampleGen(input_base=os.environ["SPAN_DATA"], input_config=wanted)
    return Pipeline(pipeline_name="latest_span", components=[examples])
