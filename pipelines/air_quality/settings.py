"""What the pipeline air_quality is made of, and when it runs.

`make new` wrote this folder for the table that `source` makes: 43,824 hours of 2010 to 2014. Changed by hand
since: when a label is known, the order of the classes, the baseline, the late labels and the words.
"""

from datetime import date

from airtight.supervised import Supervised
from airtight.watch.settings import Labels

SETTINGS = Supervised(
    name="air_quality",
    description="Which class is the air of Beijing of in 24 hours, by its fine particles?",
    zone="Asia/Shanghai",
    tables=".lake:TABLES",
    fill_lake=".lake:fill",
    schema=".schema:SCHEMA",
    transform=".transform:transform",
    expectations=".expectations:subjects",
    schedule="0 0 1 * *",  # monthly
    first=date(2010, 2, 1),
    last=date(2015, 1, 1),
    interval="2014-12",
    # An hour in twenty was not measured: its label is waited for a week.
    labels=Labels(days=7),
    # The last label of a month is known a day into the next one.
    defaults={"validation_days": 14, "label_delay_hours": 25},
)
