"""# Flight delays, each month from the weights of the one before

The pipeline of `flight_delays` with a warm start: a month's network starts from the weights of the champion of then,
and takes fewer passes over the data. The trees are grown from scratch, and every gate is the same. It has its own
champions and its own served model, so the two can be compared, on the tab **Year**.

Training waits for the run of the month before, so a backfill takes the months one after the other; what comes before
training still runs side by side.
"""

import pendulum
from airflow.sdk import CronDataIntervalTimetable

from pipelines.flight_delays import clock, settings
from plugins.tfx_airflow import TfxDag
from plugins.tfx_airflow.label_gate import add_label_gate
from plugins.tfx_airflow.wiring import add_report

dag = TfxDag(
    settings.WARM_PIPELINE,
    doc_md=__doc__,
    description="The same flights and gates; each month's network starts from the champion's weights.",
    schedule=CronDataIntervalTimetable(settings.SCHEDULE, timezone=clock.ZONE),
    start_date=pendulum.datetime(*settings.FIRST, tz=clock.ZONE),
    end_date=pendulum.datetime(*settings.LAST, tz=clock.ZONE),
    is_paused_upon_creation=True,
    **settings.DAG,
)

add_label_gate(dag, clock.ZONE)
add_report(dag, "pipelines.flight_delays.year", "--dag", dag.dag_id, "--compare", "flight_delays")
