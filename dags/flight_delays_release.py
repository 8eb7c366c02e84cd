"""# Flight delays: release a version

Tries a new version of the model on live requests before it takes over. **start** has it loaded beside the served one
and gives it a share of the requests; **watch** waits until both have answered enough of them, and holds no worker;
**judge** compares errors, latency and answers; **finish** has the better one served alone, and runs also when watching
or judging failed or was stopped: then the version that was served before goes on. No request fails.

Trigger it with a version such as `201307010400001`, or `latest`. `flight_delays` triggers it for each version that it
pushes with `release` set to `canary`. Whether the new version took over, and why, is in **judge**'s report and in
**finish**. To end a release before its time: `make rollback`, or promote a version.
"""

from datetime import timedelta

from airflow.sdk import Param

from plugins.tfx_airflow import TfxDag
from plugins.tfx_airflow.release import WATCHED, AwaitRelease

BY_RUN, BY_WATCH = "as the run tells", "as the task watch tells"

dag = TfxDag(
    "flight_delays_release",
    doc_md=__doc__,
    description="A new version on live requests: canary, A/B split or shadow; promoted or rolled back by itself.",
    # The form shows no constant: these two are filled in by the run.
    params={
        "owner": Param(BY_RUN, const=BY_RUN, type="string"),
        "watched": Param(BY_WATCH, const=BY_WATCH, type="string"),
    },
    schedule=None,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args={"owner": "airtight", "retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["tfx", "flights"],
)

with dag:
    watch = AwaitRelease(task_id="watch", start="start")
    start, judge = dag.get_task("start"), dag.get_task("judge")
    start.overrides = {"owner": "{{ run_id }}"}
    judge.overrides = {"watched": WATCHED}
    start >> watch >> judge
