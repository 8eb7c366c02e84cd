"""What the pipeline parcels is made of, and how it is watched."""

from __future__ import annotations

from datetime import date

from airtight.supervised import Supervised
from airtight.watch.brakes import Brakes
from airtight.watch.history import ALL
from airtight.watch.settings import Watch

SETTINGS = Supervised(
    name="parcels",
    package=__package__,
    description="Does a parcel arrive late?",
    tables=".rows:TABLES",
    schema=".rows:SCHEMA",
    transform=".rows:transform",
    model="components.modelling.tabular:build_trees",
    # The watch has it trained.
    schedule="",
    first=date(2025, 1, 1),
    last=date(2025, 4, 1),
    release="canary",
    batch_predictions=False,
    watch=Watch(
        # Not before a day, and three that tell when to stop, lie between the shift and the day that judges.
        policy="airtight.watch.policies:cusum?limit=4&slack=0.02&length=best",
        brakes=Brakes(cooldown=5),
        judge_days=1,
        lengths=(ALL, 4),
        first=date(2025, 1, 3),
        unit="parcel",
    ),
    defaults={
        "label_delay_hours": 1,
        "validation_days": 3,
        # A model that learned from the shift is meant to answer otherwise. The traffic is small, so margins are wide.
        **{"answers": "any", "share": 0.5, "minutes": 0.2, "longest_minutes": 10.0},
        **{"max_more_failed": 0.05, "max_more_refused": 0.05, "max_more_slow": 0.2},
        # Nothing is asserted about times, on a busy machine neither.
        "p99_limit_ms": 10000.0,
    },
)
