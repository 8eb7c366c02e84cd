"""# Flight delays: predictions for a whole interval

Says of every flight of an interval how probable it is that it arrives more than 15 minutes late, with what was known
30 minutes before its departure, and without asking a server: Spark scores the rows with the SavedModel that is served.

Trigger it with the month (or days) in **interval**, such as `2013-07`, or leave that empty for the run's own data
interval; and with the model in **version**: `as_of` (the latest that was pushed when the interval began), `served`, or
a number. The predictions lie in the artifact of **batch_predict**, a Parquet file for each day, beside a page.
"""

import pendulum
from airflow.sdk import CronDataIntervalTimetable

from pipelines.flight_delays import clock, settings
from plugins.tfx_airflow import TfxDag

dag = TfxDag(
    "flight_delays_batch_predict",
    doc_md=__doc__,
    description="Every flight of a month scored on Spark by the model that is served, or was.",
    schedule=CronDataIntervalTimetable(settings.SCHEDULE, timezone=clock.ZONE),
    start_date=pendulum.datetime(*settings.FIRST, tz=clock.ZONE),
    end_date=pendulum.datetime(*settings.LAST, tz=clock.ZONE),
    is_paused_upon_creation=True,
    **settings.DAG,
)
