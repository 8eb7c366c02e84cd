"""Watching a served model and deciding about retraining; standard library only, for Airflow and steps alike."""
