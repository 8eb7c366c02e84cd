"""Flight delays: rolling the served model back and forward."""
