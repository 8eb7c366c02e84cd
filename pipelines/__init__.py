"""One folder for each ML pipeline: its graph, settings, features, expectations and model."""
