"""What training and serving a model takes."""
