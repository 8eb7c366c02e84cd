"""OpenLineage: what a node's attempts did, read from ML Metadata, as events for other tools; off unless configured."""
