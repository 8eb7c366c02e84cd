"""What a run of eight nodes is compared with: eight tasks of Airflow's own in a row that do nothing."""

STEPS = 8
DAG = f"""
from airflow.sdk import DAG, task

with DAG("plain", schedule=None, is_paused_upon_creation=False) as plain:
    tasks = []
    for number in range({STEPS}):
        @task(task_id=f"step_{{number}}")
        def nothing():
            pass
        tasks.append(nothing())
        if number:
            tasks[-2] >> tasks[-1]
"""
"""Text of a DAG file."""
