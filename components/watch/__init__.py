"""Watching a served model, with NumPy: replays of policies, thresholds of detectors, day summaries and data alarms."""
