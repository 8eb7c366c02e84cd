"""Flight delays: whether what the stream wrote of an hour or a day is what the batch computes from the lake."""
