"""Flight delays: what its pipelines are made of, and when their DAGs run."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

from airtight.supervised import Supervised
from airtight.watch.brakes import Brakes
from airtight.watch.history import ALL
from airtight.watch.settings import Labels, Watch
from pipelines.flight_delays import clock, features

SETTINGS = Supervised(
    name="flight_delays",
    title="Flight delays",
    description="Will a flight from New York arrive more than 15 minutes late?",
    zone=clock.ZONE,
    tables=".lake:TABLES",
    expectations=".expectations:subjects",
    schema=".features:SCHEMA",
    transform=".transform:transform",
    model=".model:build",
    lookback_days=features.LOOKBACK_DAYS,
    # A month's run starts when the month is over; weekly is "0 0 * * 1". January has nothing before it to learn from.
    schedule="0 0 1 * *",
    first=date(2013, 2, 1),
    last=date(2014, 1, 1),
    tags=("flights",),
    defaults={
        "label_delay_hours": 24,
        "margins": "auc=0.008, log_loss=0.008",
        "baseline_gains": "auc=0.01, log_loss=0",
    },
    # A month has 21,000 to 29,000 rows. A day's margins are some five times as large.
    # Of a usual day a few flights in a hundred are cancelled, and these are settled a day later.
    node_parameters={"evaluate": {"margin_rows": 20_000}, "label_quality": {"ripe_from": 0.97}},
    interval="2013-06",
    # Limits from .35 to .7 fitted in the same months of 2013 (docs/watch.md); a fortnight of flights judges.
    watch=Watch(
        policy="airtight.watch.policies:cusum?limit=0.4&slack=0.02",
        brakes=Brakes(cooldown=14),
        judge_days=14,
        lengths=(ALL, 56),
        unit="flight",
        source="origin",
    ),
    # An arrival, or that there will be none, is known within two days; corrections later than a week count no more.
    labels=Labels(function=".labels:labels", join="flight_id", days=7, first=date(2013, 3, 1)),
    fill_lake=".lake:build",
    stream=".streams:STREAM",
    in_words=".demo:in_words",
    online={"flights": ".online:Lookup"},
)
WARM = replace(
    SETTINGS,
    name="flight_delays_warm",
    title="Flight delays, each month from the weights of the one before",
    warm_start=True,
    # What it pushes is served at once, beside the other's model: promotions and releases are of that one.
    release="",
    batch_predictions=False,
    watch=None,
    online={},
    labels=None,
    dag={"is_paused_upon_creation": True},
    compare="flight_delays",
)
