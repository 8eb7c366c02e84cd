"""How long it takes to look up the features of a flight in the online store, and to write an hour into it.

    python -m benchmarks.online [--store redis://127.0.0.1:6379/0] [--flights 2000]

Four weeks of 2013 and the day after them go into a store of their own, as the stream would write them; then the flights
of that day are asked for one by one, in a random order, at their cut-offs. A store that is named must be empty: what it
holds of the same hours would be taken for ours.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airtight.home import Home
from pipelines.flight_delays import online
from pipelines.flight_delays.events import Flight, Plan
from pipelines.flight_delays.learning import LEARNING
from pipelines.flight_delays.replay import events, messages
from pipelines.flight_delays.streams import STREAM
from streaming.learning.hours import HOUR_S, FeatureStore, hours_of
from streaming.windows.store import opened

DAY = datetime(2013, 6, 13, 4, tzinfo=UTC)
"""A day of thunderstorms, in New York."""
RECORD = timedelta(days=29)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p99 and the largest, in milliseconds."""
    ordered = sorted(seconds)
    picks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(int(len(ordered) * q), len(ordered) - 1)] * 1e3, 3) for name, q in picks.items()}


def main() -> None:
    """Prints a table and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="", help="its address; by default a file that is removed afterwards")
    parser.add_argument("--flights", type=int, default=2000, help="so many look-ups")
    flags = parser.parse_args()
    lake = Home.current().lake
    ends = DAY - RECORD, DAY + timedelta(days=1)
    first, end = (int(instant.timestamp()) // HOUR_S for instant in ends)
    hours = list(hours_of(LEARNING, messages(lake, *ends), first, end))
    of_day = [event for event in events(lake, DAY - timedelta(days=1), DAY) if isinstance(event, Plan)]
    flights = [Flight(**{name: getattr(plan, name) for name in Flight.__struct_fields__}) for plan in of_day]
    with tempfile.TemporaryDirectory() as folder:
        store = opened(flags.store or str(Path(folder) / "online.sqlite"), STREAM)
        features, written = FeatureStore(store, LEARNING, own=True), []
        for hour in hours:
            began = time.perf_counter()
            features.feed(hour)
            written.append(time.perf_counter() - began)
        planes = online.planes_of_lake()
        dice, read = random.Random(1), []
        for flight in dice.choices(flights, k=flags.flights):
            began = time.perf_counter()
            online.features_of(flight, store, planes)
            read.append(time.perf_counter() - began)
        store.close()
    mean = sum(len(hour.observed) for hour in hours) / len(hours)
    result = {"lookup_ms": percentiles(read), "hour_ms": percentiles(written), "events_of_an_hour": round(mean, 1)}
    for name, what in (("lookup_ms", f"look-up of {len(online.features.SCHEMA.names)} features"), ("hour_ms", "hour")):
        figures = "  ".join(f"{key} {value:8.3f} ms" for key, value in result[name].items())
        print(f"{what:26} {figures}")
    print(json.dumps({"online": {"store": flags.store or "sqlite", **result}}))


if __name__ == "__main__":
    main()
