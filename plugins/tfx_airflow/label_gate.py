"""A run waits until the labels of its interval are known; no worker is held meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import DAG, BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from airtight.errors import AirtightError
from plugins.tfx_airflow.params import INTERVAL, interval_of
from plugins.tfx_airflow.polling import PollingTrigger

PARAMETER = "label_delay_hours"


class AwaitLabels(BaseOperator):
    """Waits until `label_delay_hours` after the end of the run's interval are over.

    Args:
      zone: IANA time zone in which bare dates of the form are meant.
      **kwargs: As for every operator.
    """

    template_fields = ()
    ui_color = "#ede7f6"

    def __init__(self, *, zone: str, **kwargs: Any) -> None:
        kwargs.setdefault("doc_md", f"Waits until `{PARAMETER}` after the interval's end are over.")
        super().__init__(**kwargs)
        self.zone = zone

    def execute(self, context: Context, event: Any = None) -> str:
        """Goes on at once, or when the labels are known.

        Returns:
          The instant from which on they are, ISO 8601.

        Raises:
          TaskDeferred: It lies ahead.
          AirflowFailException: The interval cannot be read.
        """
        run, params = context["dag_run"], context["params"]
        try:
            own = (run.data_interval_start, run.data_interval_end)
            interval = interval_of(self.zone, params.get(INTERVAL), own)
        except AirtightError as error:
            error.step = error.step or self.task_id
            raise AirflowFailException(str(error)) from error
        known_at = (interval.end + timedelta(hours=params.get(PARAMETER, 0))).astimezone(UTC)
        now = datetime.now(UTC)
        if known_at > now:
            self.log.info("The labels of %s are known at %s; waiting for it.", interval, known_at.isoformat())
            moment = max(known_at, now + timedelta(seconds=PollingTrigger.settle_s))
            self.defer(trigger=DateTimeTrigger(moment=moment), method_name="execute")
        self.log.info("The labels of %s are known since %s.", interval, known_at.isoformat())
        return known_at.isoformat()


def add_label_gate(dag: DAG, zone: str, before: str = "ingest") -> AwaitLabels:
    """Puts the gate before a DAG's first task.

    Args:
      dag: The pipeline's DAG.
      zone: IANA time zone in which bare dates of the form are meant.
      before: Id of the task that waits.

    Returns:
      The task `await_labels`.
    """
    with dag:
        gate = AwaitLabels(task_id="await_labels", zone=zone)
    gate >> dag.get_task(before)
    return gate
