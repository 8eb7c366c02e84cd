"""Reading ML Metadata: what past executions were given and made, run by run. Each read is bounded or incremental."""
