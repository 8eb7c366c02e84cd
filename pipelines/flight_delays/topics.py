"""The topics of flight_delays, all in one place: what they hold, in how many partitions, and for how long."""

from __future__ import annotations

from streaming.topics import Topic

KEPT = {"retention.ms": "-1", "retention.bytes": "-1"}
"""Nothing expires. Replayed events bear the stamps of 2013, and by those Kafka would delete them at once."""
LARGEST_MESSAGE = str(16 * 1024 * 1024)
"""Bytes. Far more than any event needs: what is absurdly large shall arrive, and be set aside with a reason."""

EVENTS = Topic(
    "flights.events",
    partitions=4,
    settings={**KEPT, "max.message.bytes": LARGEST_MESSAGE},
    description="plans, departures, arrivals and weather as they became known; JSON, the key is the flight or origin",
)
DEAD_LETTERS = Topic(
    "flights.dead-letters",
    partitions=1,
    settings={**KEPT, "max.message.bytes": LARGEST_MESSAGE},
    description="events that could not be read or came too late, whole, with reason",
)
PREDICTIONS = Topic(
    "flights.predictions",
    partitions=4,
    # 30 days: what is kept for longer is in the lake.
    settings={"retention.ms": str(30 * 24 * 3600 * 1000)},
    description="the prediction log: a row for each answered example; JSON, the key is the request",
)
PREDICTION_LETTERS = Topic(
    "flights.predictions.dead-letters",
    partitions=1,
    settings={**KEPT, "max.message.bytes": LARGEST_MESSAGE},
    description="what is no row of the prediction log, whole, with reason",
)
TOPICS = (EVENTS, DEAD_LETTERS, PREDICTIONS, PREDICTION_LETTERS)
