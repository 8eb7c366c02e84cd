"""What features are computed from on Spark, for any pipeline."""
