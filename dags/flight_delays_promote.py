"""# Flight delays: roll back, roll forward

Puts another version of the model before the requests. **propose** says what is served now, what would be, and how
both were judged; **approve** waits for a person, under *Required Actions*; **promote** has the model server change over
while requests go on, or leaves everything as it was.

Trigger it with `previous` (the default), a version such as `201307010400001`, or `latest`. A version that is promoted
stays until another is, whatever is pushed; `latest` lets newer versions be served again. In a hurry: `make rollback`.
"""

from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param

from plugins.tfx_airflow import TfxDag

APPROVAL = "as the task approve tells"

dag = TfxDag(
    "flight_delays_promote",
    doc_md=__doc__,
    description="Roll the served model back or forward, when a person approves.",
    # The form shows no constant (unless it is empty): whoever triggers does not say who approved.
    params={"approval": Param(APPROVAL, const=APPROVAL, type="string")},
    schedule=None,
    default_args={"owner": "airtight", "retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["tfx", "flights"],
)

with dag:
    approve = ApprovalOperator(
        task_id="approve",
        subject="Serve version {{ ti.xcom_pull('propose')['outputs']['proposal'][0]['properties']['version'] }} "
        "of flight_delays?",
        body="{{ ti.xcom_pull('propose')['outputs']['proposal'][0]['properties']['summary'] }}",
        params={"note": Param(None, type=["null", "string"], title="Note", description="Kept with the promotion.")},
        doc_md="Waits until a person approves or rejects; rejected, nothing is changed and promote is skipped.",
    )
    promote = dag.get_task("promote")
    promote.overrides = {
        "approval": "{% set answer = ti.xcom_pull('approve') %}"
        "{{ answer['responded_by_user']['name'] }} at {{ answer['responded_at'] }}"
        "{{ ': ' + answer['params_input']['note'] if answer['params_input'].get('note') else '' }}"
    }
    dag.get_task("propose") >> approve >> promote
