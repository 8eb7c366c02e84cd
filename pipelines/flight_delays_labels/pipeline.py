"""Flight delays: how good its predictions were, as arrivals become known, and what a promotion was worth.

ingest -> validate -> transform -> answers, former -> label_quality -> judge_promotion -> take_back
"""

from tfx.orchestration.pipeline import Pipeline

from components.labels_pipeline import labels_pipeline
from pipelines.flight_delays.settings import SETTINGS
from pipelines.flight_delays_labels import settings

NAME = "flight_delays_labels"


def create_pipeline() -> Pipeline:
    """Wires the nodes."""
    return labels_pipeline(
        SETTINGS,
        "pipelines.flight_delays_labels.labels:labels",
        join="flight_id",
        days=settings.DAYS,
        # Of a usual day a few flights in a hundred are cancelled, and these are settled a day later.
        label_quality_settings={"ripe_from": 0.97, "close_after_days": settings.DAYS},
    )
