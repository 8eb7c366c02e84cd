"""Watching a served model and deciding about retraining, on the standard library: Airflow's side and the steps share it."""
