"""Streams without a pipeline: topics of Kafka, a source of hours, accounts that outlive a crash, the online store.

It knows no pipeline: each brings its events, windows and topics by importing from here.
"""
