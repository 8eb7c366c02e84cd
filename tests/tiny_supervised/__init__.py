"""A supervised pipeline outside of `pipelines/`: parts that break, by their colour, size and weight."""
