"""Windows over a declared stream: events, totals by the minute, windows for people, stores; of any pipeline."""
