"""Flight delays, each month from the weights of the one before.

The pipeline of `flight_delays` with a warm start, under a name of its own: it has its own champions, and serves beside
the other.
"""

from tfx.orchestration.pipeline import Pipeline

from pipelines.flight_delays import clock, settings
from pipelines.flight_delays.pipeline import create_pipeline as create

ZONE = clock.ZONE
PARAMETERS = tuple(parameter for parameter in settings.PARAMETERS if parameter != settings.RELEASE)
"""What it pushes is served at once: releases are of the other's model."""


def create_pipeline() -> Pipeline:
    """Gives the pipeline."""
    return create(settings.WARM_NAME, warm_start=True, released=False)
