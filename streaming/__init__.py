"""Streams without a pipeline: topics of Kafka, a source of hours, accounts that outlive a crash, the online store.

It knows nothing of flights: a pipeline brings its events, windows and topics by importing from here.
"""
