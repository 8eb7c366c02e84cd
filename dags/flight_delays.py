"""# Flight delays

Will a flight from New York arrive more than 15 minutes late? One run learns from everything known before one month,
is judged on that month, and, when every gate agrees, is served.

Trigger it with the month to be judged in **interval** (such as `2013-06`), or leave that empty for the run's own data
interval. The model server then answers on `/v1/models/flight_delays`; with **release** set to `canary`, the new version
is tried on live requests first, by `flight_delays_release`.
"""

import pendulum
from airflow.sdk import CronDataIntervalTimetable

from pipelines.flight_delays import clock, settings
from plugins.tfx_airflow import TfxDag
from plugins.tfx_airflow.label_gate import add_label_gate
from plugins.tfx_airflow.wiring import add_release, add_report

dag = TfxDag(
    "flight_delays",
    doc_md=__doc__,
    description="Will a flight arrive more than 15 minutes late? Learned, judged, served and watched month by month.",
    schedule=CronDataIntervalTimetable(settings.SCHEDULE, timezone=clock.ZONE),
    start_date=pendulum.datetime(*settings.FIRST, tz=clock.ZONE),
    end_date=pendulum.datetime(*settings.LAST, tz=clock.ZONE),
    **settings.DAG,
)

add_label_gate(dag, clock.ZONE)
add_release(dag, settings.RELEASES)
add_report(dag, "pipelines.flight_delays.year")
