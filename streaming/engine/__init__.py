"""Streams whose source, state and offsets are the engine's: Kafka read by Flink, windows in Beam."""
