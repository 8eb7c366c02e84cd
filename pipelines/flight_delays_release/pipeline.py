"""Flight delays, released: a new version answers its share of the live requests, and takes over if it is good enough.

start -> judge -> finish; in Airflow the task `watch` waits between the first two (dags/flight_delays_release.py), and
without it judge waits itself. finish ends what start began, whatever became of judge.
"""

from tfx.dsl.experimental.node_execution_options.utils import NodeExecutionOptions, TriggerStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from components.release import finish_release, judge_release, start_release
from pipelines.flight_delays_release import settings
from runtime.parameters import runtime_parameter
from runtime.resolvers import of_all_runs

NAME = "flight_delays_release"
PARAMETERS = settings.PARAMETERS

_MODEL = "flight_delays"
"""Name of the served model, and of the pipeline that pushes it."""


def create_pipeline() -> Pipeline:
    """Wires the three nodes; what was pushed and how it was judged comes from all runs of the other pipeline."""
    started = start_release(
        model_name=_MODEL,
        version=runtime_parameter(settings.VERSION),
        pushed=of_all_runs(_MODEL, standard_artifacts.PushedModel, "push", "pushed"),
        evaluations=of_all_runs(_MODEL, standard_artifacts.ModelEvaluation, "evaluate", "evaluation"),
        mode=runtime_parameter(settings.MODE),
        share=runtime_parameter(settings.SHARE),
        minutes=runtime_parameter(settings.MINUTES),
        longest_minutes=runtime_parameter(settings.LONGEST_MINUTES),
        min_requests=runtime_parameter(settings.MIN_REQUESTS),
        max_more_failed=runtime_parameter(settings.MAX_MORE_FAILED),
        max_more_refused=runtime_parameter(settings.MAX_MORE_REFUSED),
        max_more_slow=runtime_parameter(settings.MAX_MORE_SLOW),
        slow_ratio=runtime_parameter(settings.SLOW_RATIO),
        slow_floor_ms=runtime_parameter(settings.SLOW_FLOOR_MS),
        mean_limit=runtime_parameter(settings.MEAN_LIMIT),
        distribution_limit=runtime_parameter(settings.DISTRIBUTION_LIMIT),
        difference_limit=runtime_parameter(settings.DIFFERENCE_LIMIT),
        answers=runtime_parameter(settings.ANSWERS),
        owner=runtime_parameter(settings.OWNER),
        asked_by=runtime_parameter(settings.ASKED_BY),
    ).with_id("start")
    release = started.outputs["release"]
    judged = judge_release(
        release=release,
        when_unsure=runtime_parameter(settings.WHEN_UNSURE),
        watched=runtime_parameter(settings.WATCHED),
    ).with_id("judge")
    finished = finish_release(release=release, decision=judged.outputs["decision"]).with_id("finish")
    # What was begun is ended: with the decision, or without one, when judging failed or was stopped.
    finished.node_execution_options = NodeExecutionOptions(
        trigger_strategy=TriggerStrategy.LIFETIME_END_WHEN_SUBGRAPH_CANNOT_PROGRESS, lifetime_start="start"
    )
    return Pipeline(pipeline_name=NAME, components=[started, judged, finished], enable_cache=False)
