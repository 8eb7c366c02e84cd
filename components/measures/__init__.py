"""What the gates measure: expectations, metrics, drift."""
