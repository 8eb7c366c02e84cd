"""TFX without Airflow: compile, launch, the warm launcher, run identity, resolvers."""
