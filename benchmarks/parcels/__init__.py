"""A pipeline for `benchmarks.closed_loop`: does a parcel arrive late? Its rows are made up, day by day."""
