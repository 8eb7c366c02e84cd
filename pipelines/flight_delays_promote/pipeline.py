"""Flight delays, rolled back and forward: which version of the model answers requests.

propose -> promote; in Airflow a person approves between the two (dags/flight_delays_promote.py).
"""

from tfx.orchestration.pipeline import Pipeline
from tfx.types import standard_artifacts

from components.promote import promote, propose
from pipelines.flight_delays.promotions import of_all_promotions
from pipelines.flight_delays_promote import settings
from runtime.parameters import runtime_parameter
from runtime.resolvers import of_all_runs

NAME = "flight_delays_promote"
PARAMETERS = settings.PARAMETERS

_MODEL = "flight_delays"
"""Name of the served model, and of the pipeline that pushes it."""


def create_pipeline() -> Pipeline:
    """Wires the two nodes; what was pushed and how it was judged comes from all runs of the other pipeline."""
    proposed = propose(
        model_name=_MODEL,
        version=runtime_parameter(settings.VERSION),
        reason=runtime_parameter(settings.REASON),
        pushed=of_all_runs(_MODEL, standard_artifacts.PushedModel, "push", "pushed"),
        promotions=of_all_promotions(),
        evaluations=of_all_runs(_MODEL, standard_artifacts.ModelEvaluation, "evaluate", "evaluation"),
    ).with_id("propose")
    promoted = promote(proposal=proposed.outputs["proposal"], approval=runtime_parameter(settings.APPROVAL)).with_id(
        "promote"
    )
    return Pipeline(pipeline_name=NAME, components=[proposed, promoted], enable_cache=False)
