"""The steps of pipelines, generic, each a TFX component; none knows a pipeline or another step."""
