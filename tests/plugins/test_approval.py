"""The task that has a person approve that gates are overridden: what it asks, and which gates wait for it."""

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from plugins.tfx_airflow.approval import OVERRIDES, add_override_approval


def training(*gates):
    with DAG("toy") as dag:
        for gate in gates:
            EmptyOperator(task_id=gate)
    return dag


def test_a_person_reads_which_gates_are_overridden_and_of_no_other():
    approve = add_override_approval(training(*OVERRIDES.values()), ())
    params = {"champion_incomparable": "block", "data_faults": "accept", "override_reason": "known"}
    body = approve.render_template(approve.body, {"params": params})
    assert body == "The run has data_faults = accept: clear_training lets through what it would stop. known"
    params = {"champion_incomparable": "accept", "override_reason": ""}
    body = approve.render_template(approve.body, {"params": params})
    assert body.startswith("The run has champion_incomparable = accept: evaluate lets") and "data_faults" not in body
    assert body.endswith("No reason was given: it will be refused.")


def test_without_a_watch_evaluate_alone_waits_for_the_approval():
    dag = training("evaluate")
    approve = add_override_approval(dag, ("ada",))
    assert approve.downstream_task_ids == {"evaluate"}
