"""# Flight delays: close a day of the stream

Compares what the stream wrote of a day, or of hours, with a batch computation of the same windows from the lake, on
Spark: each key and minute on both sides, with the same counts, sums and largest delays, and means equal to 1e-9. The
stream's totals of the interval become a file of the lake.

Trigger it with a day in **interval**, such as `2013-06-14`, or hours, such as
`2013-06-14T10:00-04:00/2013-06-14T11:00-04:00`, or leave that empty for the run's own day. It is green when all was
compared: whether both are equal, and where not, is in the artifact of **close_stream** (`verdict.json`, `report.html`,
the rows that differ) and in its log. The lake must have the day; a stream that has not written it is told as missing.
"""

from datetime import timedelta

import pendulum
from airflow.sdk import CronDataIntervalTimetable

from pipelines.flight_delays import clock
from pipelines.flight_delays_close import settings
from plugins.tfx_airflow import TfxDag

dag = TfxDag(
    "flight_delays_close",
    doc_md=__doc__,
    description="A day of the stream beside the batch: zero missing, zero extra, zero different.",
    schedule=CronDataIntervalTimetable(settings.SCHEDULE, timezone=clock.ZONE),
    start_date=pendulum.datetime(*settings.FIRST, tz=clock.ZONE),
    end_date=pendulum.datetime(*settings.LAST, tz=clock.ZONE),
    is_paused_upon_creation=True,
    catchup=False,
    max_active_runs=4,
    default_args={"owner": "airtight", "retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["tfx", "flights"],
)
