"""# Flight delays: labels

Each day, when it is over, its flights are scored by the champion of then and by the one before it, and the predictions
of the last week are joined with the arrivals that are known by now. **label_quality** says how ripe each day is and how
good it was; **judge_promotion** compares the champion with the former one on the ripe days since it took over, and
**take_back** has the former one served again when it surely loses more. Reports lie in the artifacts.

Trigger it with a day in **interval**, such as `2013-06-14`. A backfill of past days should run with **acts** set to
`report`.
"""

from datetime import timedelta

import pendulum
from airflow.sdk import CronDataIntervalTimetable

from pipelines.flight_delays import clock
from pipelines.flight_delays_labels import settings
from plugins.tfx_airflow import TfxDag

dag = TfxDag(
    "flight_delays_labels",
    doc_md=__doc__,
    description="Quality by day as arrivals become known; a promotion that loses is taken back.",
    schedule=CronDataIntervalTimetable(settings.SCHEDULE, timezone=clock.ZONE),
    start_date=pendulum.datetime(*settings.FIRST, tz=clock.ZONE),
    end_date=pendulum.datetime(*settings.LAST, tz=clock.ZONE),
    is_paused_upon_creation=True,
    catchup=False,
    max_active_runs=2,
    default_args={"owner": "airtight", "retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["tfx", "flights"],
)
