"""How the steps read data: the lake, a run's dataset, Spark, examples."""
