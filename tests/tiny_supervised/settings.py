from dataclasses import replace
from datetime import date

from airtight.parameters import Parameter
from airtight.supervised import Supervised
from airtight.watch.brakes import Brakes
from airtight.watch.history import ALL
from airtight.watch.settings import Labels, Watch

SETTINGS = Supervised(
    name="toy",
    package=__package__,
    title="Broken parts",
    description="Does a part break?",
    tables=".data:TABLES",
    schema=".data:SCHEMA",
    transform=".data:transform",
    model="tests.components.toy:model",
    schedule="@daily",
    first=date(2020, 3, 1),
    last=date(2020, 4, 1),
    tags=("parts",),
    defaults={"epochs": 2, "validation_days": 7, "lake_version": "now", "champion_incomparable": "accept"}
    | {"override_reason": "its champions are made up"},
    node_parameters={
        "train": {
            "batch_size": 64,
            "learning_rate": Parameter("learning_rate", "float", 0.01, "The highest.", minimum=0, maximum=1),
        }
    },
    interval="2020-03-01",
    fill_lake=".data:fill",
)
REPLACED = replace(
    SETTINGS,
    name="replaced",
    release="",
    batch_predictions=False,
    node_parameters={"train": {"depth": Parameter("depth", "int", 3)}},
    components={"train": ".replaced:grow"},
)
WATCHED = replace(
    SETTINGS,
    name="watched",
    title="Watched parts",
    batch_predictions=False,
    watch=Watch(
        policy="tests.tiny_supervised.watching:every_second_day",
        brakes=Brakes(),
        judge_days=1,
        lengths=(ALL, 7),
        first=date(2020, 2, 15),
        unit="part",
        notify=("tests.tiny_supervised.watching:NOTIFIER",),
    ),
    labels=Labels(days=5, first=date(2020, 2, 20)),
)
