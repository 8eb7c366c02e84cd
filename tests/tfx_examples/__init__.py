"""A pipeline that knows nothing of flights and is known by nothing: what runs it is generic."""
