"""The gate that waits until an interval's labels are known."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from plugins.tfx_airflow.label_gate import AwaitLabels, add_label_gate
from plugins.tfx_airflow.polling import PollingTrigger

NOW = datetime.now(UTC).replace(microsecond=0)


def execute(end: datetime | None, **params: object) -> str:
    run = SimpleNamespace(data_interval_start=end and end - timedelta(days=1), data_interval_end=end)
    return AwaitLabels(task_id="await_labels", zone="UTC").execute({"dag_run": run, "params": params})


def test_labels_that_are_known_are_not_waited_for():
    assert execute(NOW - timedelta(hours=3), label_delay_hours=2) == (NOW - timedelta(hours=1)).isoformat()
    assert execute(NOW, interval="2013-06", label_delay_hours=24) == "2013-07-02T00:00:00+00:00"
    assert execute(NOW - timedelta(hours=1)) == (NOW - timedelta(hours=1)).isoformat()


def test_labels_that_are_to_come_are_waited_for_without_a_worker():
    with pytest.raises(TaskDeferred) as deferred:
        execute(NOW, label_delay_hours=5)
    assert isinstance(deferred.value.trigger, DateTimeTrigger)
    assert deferred.value.trigger.moment == NOW + timedelta(hours=5)


def test_the_scheduler_has_time_to_record_that_the_gate_waits():
    """A task that goes on before that is treated as lost, which uses up a retry."""
    soon = datetime.now(UTC) + timedelta(seconds=1)
    with pytest.raises(TaskDeferred) as deferred:
        execute(soon)
    assert deferred.value.trigger.moment >= soon + timedelta(seconds=PollingTrigger.settle_s - 1)


def test_a_run_without_an_interval_fails_in_words():
    with pytest.raises(AirflowFailException, match="await_labels"):
        execute(None, label_delay_hours=5)


def test_the_gate_stands_before_the_first_step():
    with DAG("toy", schedule=None) as dag:
        EmptyOperator(task_id="ingest")
    add_label_gate(dag, "UTC")
    assert dag.get_task("ingest").upstream_task_ids == {"await_labels"}
