"""Tasks that wait for a person, under Airflow's Required Actions: who may answer is a pipeline's setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Context, Param
from airflow.sdk.execution_time.hitl import HITLUser

OVERRIDES = {"champion_incomparable": "evaluate", "data_faults": "clear_training"}
"""Run parameters that override a gate where they are `accept`, each with the gate's task."""
_ACCEPT = "accept"
_NOTE = Param(None, type=["null", "string"], title="Note", description="Kept with what was approved.")
_REASON = Param("", type="string", minLength=3, title="Reason", description="Why the gate is overridden; it is kept.")


def approval_of(task_id: str) -> str:
    """Gives the template that says who approved, when, and with which note, for a task after the one of an id."""
    return (
        f"{{% set answer = ti.xcom_pull('{task_id}') %}}"
        "{% if answer %}{{ answer['responded_by_user']['name'] }} at {{ answer['responded_at'] }}"
        "{% set note = answer['params_input'].get('note') or answer['params_input'].get('reason') %}"
        "{{ ': ' + note if note else '' }}{% endif %}"
    )


def approval(approvers: Sequence[str], **kwargs: Any) -> ApprovalOperator:
    """Gives the task `approve`.

    Args:
      approvers: Names of the Airflow users who may answer; empty is everybody who may answer at all.
      **kwargs: As for `ApprovalOperator`.
    """
    return ApprovalOperator(task_id="approve", params={"note": _NOTE}, assigned_users=_users(approvers), **kwargs)


class ApproveOverride(ApprovalOperator):
    """Waits for a person where a run overrides a gate; any other run goes on at once. Rejected, the run fails."""

    def execute(self, context: Context) -> Any:
        """Asks, or goes on.

        Raises:
          TaskAwaitingInput: A person must answer.
        """
        if not any(context["params"].get(name) == _ACCEPT for name in OVERRIDES):
            self.log.info("This run overrides no gate.")
            return None
        return super().execute(context)


def add_override_approval(dag: DAG, approvers: Sequence[str]) -> ApproveOverride:
    """Has a person approve, before the gates, that a run overrides one of them.

    Args:
      dag: The training DAG.
      approvers: Names of the Airflow users who may answer.

    Returns:
      The task `approve_override`.
    """
    accepted = "".join(
        f"{{% if params.get('{name}') == '{_ACCEPT}' %}}"
        f"The run has {name} = {_ACCEPT}: {gate} lets through what it would stop. {{% endif %}}"
        for name, gate in OVERRIDES.items()
    )
    with dag:
        approve = ApproveOverride(
            task_id="approve_override",
            subject=f"Override a gate of {dag.dag_id}, run {{{{ run_id }}}}?",
            body=f"{accepted}{{{{ params.override_reason or 'No reason was given: it will be refused.' }}}}",
            params={"reason": _REASON},
            assigned_users=_users(approvers),
            fail_on_reject=True,
            doc_md="Waits until a person approves, where the run overrides a gate; their reason is kept.",
        )
    for gate in (gate for gate in OVERRIDES.values() if dag.has_task(gate)):
        dag.get_task(gate).labels = {"approval": approval_of(approve.task_id)}
        approve >> dag.get_task(gate)
    return approve


def _users(names: Sequence[str]) -> list[HITLUser] | None:
    return [HITLUser(id=name, name=name) for name in names] or None
