"""The steps of pipelines, generic: each a TFX component, in the order of the flow; none knows a pipeline or another step."""
