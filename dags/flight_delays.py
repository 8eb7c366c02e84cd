"""# Flight delays

Will a flight from New York arrive more than 15 minutes late? One run learns from everything known before one month,
is judged on that month, and, when every gate agrees, is served.

Trigger it with the month to be judged in **interval** (such as `2013-06`), or leave that empty for the run's own data
interval. The model server then answers on `/v1/models/flight_delays`.
"""

import sys
from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import CronDataIntervalTimetable

from plugins.tfx_airflow import TfxDag

ZONE = "America/New_York"

dag = TfxDag(
    "flight_delays",
    doc_md=__doc__,
    description="Will a flight arrive more than 15 minutes late? Learned, judged, served and watched month by month.",
    # A month's run starts when the month is over; weekly is "0 0 * * 1".
    schedule=CronDataIntervalTimetable("0 0 1 * *", timezone=ZONE),
    # January has nothing before it to learn from; the lake ends with 2013.
    start_date=pendulum.datetime(2013, 2, 1, tz=ZONE),
    end_date=pendulum.datetime(2014, 1, 1, tz=ZONE),
    catchup=False,
    max_active_runs=4,
    default_args={"owner": "airtight", "retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["tfx", "flights"],
)

with dag:
    report = BashOperator(
        task_id="report",
        bash_command=f"{sys.executable} -m pipelines.flight_delays.year report",
        doc_md="Writes the page of all runs that the tab **Year** shows.",
    )
    [dag.get_task("push"), dag.get_task("monitor")] >> report
