"""What the pipeline bike_demand is made of, and when it runs."""

from datetime import date

from airtight.supervised import Supervised
from airtight.watch.brakes import Brakes
from airtight.watch.history import ALL
from airtight.watch.settings import Watch

SETTINGS = Supervised(
    name="bike_demand",
    description="How many rides do people begin on Washington's shared bicycles in the next hour?",
    zone="America/New_York",
    tables=".lake:TABLES",
    fill_lake=".lake:build",
    schema=".schema:SCHEMA",
    transform=".transform:transform",
    expectations=".expectations:subjects",
    # A network beside the trees makes them no better here (docs/benchmarks-bike.md).
    model="components.modelling.tabular:build_trees",
    lookback_days=30,
    first=date(2012, 1, 1),
    last=date(2019, 9, 1),
    interval="2019-08",
    # A day has 24 rows, so that four weeks judge; the last two years are the other history to learn from.
    watch=Watch(brakes=Brakes(cooldown=28), judge_days=28, lengths=(ALL, 730), unit="hour"),
    # The last hour of a month ends half an hour into the next one.
    defaults={"label_delay_hours": 1, "validation_days": 28},
)
