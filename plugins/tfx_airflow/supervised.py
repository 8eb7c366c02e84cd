"""The DAGs of a supervised pipeline, made of its settings: training, promotion, release, predictions, watch, labels.

globals().update(supervised_dags(SETTINGS, parts=BY_INTERVAL))
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, get_parsing_context

from airtight.errors import TerminalError
from airtight.home import Home
from airtight.supervised import ALARMS, BATCH_PREDICT, LABELS, PROMOTE, RELEASE, TRAIN, WATCH, Supervised
from plugins.tfx_airflow.dag import TfxDag
from plugins.tfx_airflow.label_gate import add_label_gate
from plugins.tfx_airflow.release import WATCHED, AwaitRelease
from plugins.tfx_airflow.watch import AnnounceRollback
from plugins.tfx_airflow.watch_dags import (
    ACTS,
    LABELLING,
    WATCH_PARAMS,
    WATCHING,
    add_watch_tasks,
    by_interval,
    check_dag,
    id_of_check,
)
from plugins.tfx_airflow.wiring import add_release, add_report
from runtime.compiled_pipeline import CompiledPipeline
from runtime.fresh_pipelines import fresh_all

APPROVAL = "as the task approve tells"
BY_RUN, BY_WATCH = "as the run tells", "as the task watch tells"

_TRAINING = """
# {title}

{description} One run learns from everything known before an interval, is judged on that interval, and, when every gate
agrees, is served.{warm_start}

Trigger it with the interval to be judged in **interval** (such as `{interval}`), or leave that empty for the run's own
data interval. The model server then answers on `/v1/models/{name}`{release}.
"""
_WARM_START = """

With its warm start, training begins with the weights of the champion of then, and takes fewer passes over the data.
Trees are grown from scratch, and every gate is the same. Training waits for the run of the interval before, so a
backfill takes the intervals one after the other; what comes before training still runs side by side.
"""
_CANARY = (
    "; with **release** set to `canary`, the new version is tried on live requests first, by `{name}_release`, and "
    "`{name}_promote` rolls back"
)
_PROMOTION = """
# {title}: roll back, roll forward

Puts another version of the model before the requests. **propose** says what is served now, what would be, and how
both were judged; **approve** waits for a person, under *Required Actions*; **promote** has the model server change over
while requests go on, or leaves everything as it was.

Trigger it with `previous` (the default), a version such as `201307010400001`, or `latest`. A version that is promoted
stays until another is, whatever is pushed; `latest` lets newer versions be served again. In a hurry:
`make rollback PIPELINE={name} REASON="..."`. A **reason** must be given.
"""
_RELEASE = """
# {title}: release a version

Tries a new version of the model on live requests before it takes over. **start** has it loaded beside the served one
and gives it a share of the requests; **watch** waits until both have answered enough of them, and holds no worker;
**judge** compares errors, latency and answers; **finish** has the better one served alone, and runs also when watching
or judging failed or was stopped: then the version that was served before goes on. No request fails.

Trigger it with a version such as `201307010400001`, or `latest`. `{name}` triggers it for each version that it
pushes with `release` set to `canary`. Whether the new version took over, and why, is in **judge**'s report and in
**finish**. To end a release before its time: `make rollback PIPELINE={name} REASON="..."`, or promote a version.
"""
_ALARMS = """
# {title}: alarms

Says of alarms what a person wants of them. **approve** waits for a person, under *Required Actions*; **act_on_alarm**
writes it into the audit log, from where the page of the model shows it, and notifiers know what is silenced.

Trigger it with **action**: `acknowledge` the alarm of the day in **alarm**; `silence` all alarms, or those whose words
begin as **alarm** says, until **until**; or `end_silence`. A silence has an end, within 90 days, and everything a
**reason**.
"""
_BATCH_PREDICTION = """
# {title}: predictions for a whole interval

Says of every row of an interval what the model predicts, with what was known then, and without asking a server: Spark
scores the rows with the model's SavedModel. {description}

Trigger it with the interval in **interval**, such as `{interval}`, or leave that empty for the run's own data
interval; and with the model in **version**: `as_of` (by data time, the version that had served last when the interval
began), `former` (the champion before that one), `served` (what is served now), or a number. The predictions lie in the
artifact of **batch_predict**, a Parquet file for each day, beside a page.
"""


def supervised_dags(*settings: Supervised, parts: Collection[str] = ()) -> dict[str, DAG]:
    """Gives the DAGs of supervised pipelines by their ids.

    What must be compiled is compiled by one process. A task that runs needs its own DAG alone, so the others are not
    made then.

    Args:
      *settings: The settings of each pipeline.
      parts: Only these parts of each; all by default. While one DAG of a file does not compile, Airflow hides all DAGs
        of the file, so make `airtight.supervised.OPERATIONS` in a file of their own: a training pipeline that does not
        compile then never hides the way back.

    Raises:
      AirtightError: A pipeline does not compile, `parts` names a part that there is not, or the settings are in no
        module that Airflow's launcher finds.
    """
    makers: dict[str, Callable[[Supervised, CompiledPipeline], DAG]] = {
        TRAIN: _training,
        PROMOTE: _promotion,
        RELEASE: _release,
        ALARMS: _alarms,
        BATCH_PREDICT: _batch_prediction,
        WATCH: _watch,
        LABELS: _labels,
    }
    if unknown := set(parts) - set(makers):
        raise TerminalError(
            "There are no such parts of a supervised pipeline.",
            expected=f"some of {', '.join(makers)}",
            received=", ".join(sorted(unknown)),
            remedy="Correct `parts` in the DAG file.",
        )
    running = get_parsing_context().dag_id
    wanted = [
        (pipeline, part)
        for pipeline in settings
        for part in pipeline.parts
        if (not parts or part in parts) and running in (None, pipeline.id_of(part))
    ]
    compiled = fresh_all([pipeline.source(part) for pipeline, part in wanted], Home.current())
    dags = {
        pipeline.id_of(part): makers[part](pipeline, made)
        for (pipeline, part), made in zip(wanted, compiled, strict=True)
    }
    for pipeline in settings:
        if pipeline.watch and (not parts or WATCH in parts) and running in (None, id_of_check(pipeline)):
            dags[id_of_check(pipeline)] = check_dag(pipeline)
    return dags


def _training(settings: Supervised, compiled: CompiledPipeline) -> DAG:
    dag = _dag(
        settings,
        TRAIN,
        compiled,
        settings.doc or _TRAINING,
        f"{settings.description} Learned, judged, served and watched interval by interval.",
        **by_interval(settings),
    )
    add_label_gate(dag, settings.zone)
    if settings.approvers:
        from plugins.tfx_airflow.approval import add_override_approval

        add_override_approval(dag, settings.approvers)
    if settings.release:
        add_release(dag, settings.id_of(RELEASE))
    compared = ("--compare", settings.compare) if settings.compare else ()
    add_report(dag, "--pipeline", _named(settings), *compared)
    return dag


def _promotion(settings: Supervised, compiled: CompiledPipeline) -> DAG:
    # Tasks of the other parts do without this import.
    from plugins.tfx_airflow.approval import approval, approval_of

    dag = _dag(
        settings,
        PROMOTE,
        compiled,
        _PROMOTION,
        "Roll the served model back or forward, when a person approves.",
        # The form shows no constant (unless it is empty): whoever triggers does not say who approved.
        params={"approval": Param(APPROVAL, const=APPROVAL, type="string")},
        schedule=None,
    )
    with dag:
        proposal = "ti.xcom_pull('propose')['outputs']['proposal'][0]['properties']"
        approve = approval(
            settings.approvers,
            subject=f"Serve version {{{{ {proposal}['version'] }}}} of {settings.name}?",
            body=f"{{{{ {proposal}['summary'] }}}}",
            doc_md="Waits until a person approves or rejects; rejected, nothing is changed and promote is skipped.",
        )
        promote = dag.get_task("promote")
        promote.overrides = {"approval": approval_of(approve.task_id)}
        dag.get_task("propose") >> approve >> promote
    _add_rollback_notice(dag, settings, promote)
    return dag


def _alarms(settings: Supervised, compiled: CompiledPipeline) -> DAG:
    from plugins.tfx_airflow.approval import approval, approval_of

    dag = _dag(
        settings,
        ALARMS,
        compiled,
        _ALARMS,
        "Acknowledge an alarm, or silence alarms until an instant, when a person approves.",
        # The form shows no constant: whoever triggers does not say who approved.
        params={"approval": Param(APPROVAL, const=APPROVAL, type="string")},
        schedule=None,
    )
    with dag:
        approve = approval(
            settings.approvers,
            subject=f"{{{{ params.action }}}} {{{{ params.alarm or 'all alarms' }}}} of {settings.name}?",
            body="{% if params.until %}Until {{ params.until }} (UTC unless it says otherwise). {% endif %}"
            "{{ params.reason or 'No reason was given: it will be refused.' }}",
            doc_md="Waits until a person approves or rejects; rejected, nothing is written down.",
        )
        act = dag.get_task("act_on_alarm")
        act.overrides = {"approval": approval_of(approve.task_id)}
        approve >> act
    return dag


def _release(settings: Supervised, compiled: CompiledPipeline) -> DAG:
    dag = _dag(
        settings,
        RELEASE,
        compiled,
        _RELEASE,
        "A new version on live requests: canary, A/B split or shadow; promoted or rolled back by itself.",
        # The form shows no constant: these two are filled in by the run.
        params={
            "owner": Param(BY_RUN, const=BY_RUN, type="string"),
            "watched": Param(BY_WATCH, const=BY_WATCH, type="string"),
        },
        schedule=None,
        max_active_runs=1,
        is_paused_upon_creation=False,
    )
    with dag:
        watch = AwaitRelease(task_id="watch", start="start")
        start, judge = dag.get_task("start"), dag.get_task("judge")
        start.overrides = {"owner": "{{ run_id }}"}
        judge.overrides = {"watched": WATCHED}
        start >> watch >> judge
    _add_rollback_notice(dag, settings, dag.get_task("finish"))
    return dag


def _batch_prediction(settings: Supervised, compiled: CompiledPipeline) -> DAG:
    return _dag(
        settings,
        BATCH_PREDICT,
        compiled,
        _BATCH_PREDICTION,
        "Every row of an interval scored on Spark by the model that is served, or was.",
        **{**by_interval(settings), "is_paused_upon_creation": True},
    )


def _watch(settings: Supervised, compiled: CompiledPipeline) -> DAG:
    assert settings.watch is not None
    dag = _dag(
        settings,
        WATCH,
        compiled,
        WATCHING,
        "Day by day: is the data as it was, would a fresh model be better, and what is done about it.",
        params=WATCH_PARAMS,
        **by_interval(settings, settings.watch),
    )
    add_label_gate(dag, settings.zone)
    add_watch_tasks(dag, settings)
    return dag


def _labels(settings: Supervised, compiled: CompiledPipeline) -> DAG:
    dag = _dag(
        settings,
        LABELS,
        compiled,
        LABELLING,
        "Quality by day as labels become known; a promotion that loses is taken back.",
        **by_interval(settings, settings.labels),
    )
    back = dag.get_task("take_back")
    back.overrides = {"acts": ACTS}
    _add_rollback_notice(dag, settings, back)
    return dag


def _add_rollback_notice(dag: DAG, settings: Supervised, after: Any) -> None:
    """Adds the task that notifies of a rollback, where there is somebody to notify."""
    if settings.watch and settings.watch.notify:
        with dag:
            notice = AnnounceRollback(
                task_id="announce", of=after.task_id, pipeline=settings.name, notify=settings.watch.notify
            )
        after >> notice


def _dag(
    settings: Supervised, part: str, compiled: CompiledPipeline, doc: str, description: str, **arguments: Any
) -> DAG:
    """The DAG of a part.

    Args:
      settings: The pipeline's settings.
      part: The part.
      compiled: Its compiled pipeline.
      doc: Markdown in which `{title}` and the like stand for what the settings say.
      description: A sentence, as it is.
      **arguments: As for `TfxDag`.
    """
    words = {
        "name": settings.name,
        "title": settings.title,
        "description": settings.description,
        "interval": settings.example_interval,
        "warm_start": _WARM_START.rstrip() if settings.warm_start else "",
        "release": _CANARY.replace("{name}", settings.name) if settings.release else "",
    }
    for name, word in words.items():
        doc = doc.replace(f"{{{name}}}", word)
    owner = {"owner": "airtight", "retries": 2, "retry_delay": timedelta(seconds=10)}
    common = {"default_args": owner, "tags": ["tfx", *settings.tags]}
    return TfxDag(
        compiled,
        dag_id=settings.id_of(part),
        doc_md=doc.strip(),
        description=description.strip(),
        **{**common, **arguments},
    )


def _named(settings: Supervised) -> str:
    """What commands call the pipeline."""
    return settings.source(TRAIN)[0]
