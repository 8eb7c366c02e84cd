"""Flight delays: what the model says of every flight of an interval."""
