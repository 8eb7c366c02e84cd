"""What a person may set for a run, each with a default, a range and a description; first what only the code sets."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airtight.parameters import Parameter

WARM_START = False
"""Whether a month's network starts from the champion's weights; training then waits for the run of the month before."""
WARM_EPOCHS = 2
"""Passes over the training data, at most, where it does."""
WARM_NAME = "flight_delays_warm"
WARM_PIPELINE = "pipelines.flight_delays.warm:create_pipeline"
"""The pipeline that always does, to be compared with the other."""
RELEASES = "flight_delays_release"
"""The DAG that tries a version which a run has left to it."""

SCHEDULE = "0 0 1 * *"
"""A month's run starts when the month is over; weekly is "0 0 * * 1"."""
FIRST, LAST = (2013, 2, 1), (2014, 1, 1)
"""January has nothing before it to learn from; the lake ends with 2013."""
DAG: dict[str, Any] = {
    "catchup": False,
    "max_active_runs": 4,
    "default_args": {"owner": "airtight", "retries": 2, "retry_delay": timedelta(seconds=10)},
    "tags": ["tfx", "flights"],
}
"""What else the two DAGs have in common."""

WINDOW_DAYS = Parameter(
    "window_days",
    "int",
    0,
    "How many days before the interval the model learns from; 0 is everything known before it.",
    minimum=0,
    maximum=3650,
)
LABEL_DELAY_HOURS = Parameter(
    "label_delay_hours",
    "int",
    24,
    "Hours after the interval's end until it is judged: its last flights have landed by then.",
    minimum=0,
    maximum=240,
)
VALIDATION_DAYS = Parameter(
    "validation_days",
    "int",
    14,
    "The last days before the interval are kept from training: they tell when to stop.",
    minimum=3,
    maximum=90,
)
LAKE_VERSION = Parameter(
    "lake_version",
    "str",
    "then",
    "Which state of the lake is read: as it was known then, when the interval was judged, or as it is now with "
    "corrections.",
    choices=("then", "now"),
)
EPOCHS = Parameter(
    "epochs",
    "int",
    6,
    "Passes over the training data, at most; the learning rate falls over all of them.",
    minimum=1,
    maximum=200,
)
SEED = Parameter("seed", "int", 0, "Seed of every random choice of the training.", minimum=0, maximum=2**31 - 1)
STRATEGY = Parameter(
    "strategy",
    "str",
    "mirrored",
    "Where it trains: mirrored over all GPUs, or the CPU where there is none; over two logical CPUs; a TPU; one "
    "device.",
    choices=("mirrored", "mirrored_cpus", "tpu", "one_device"),
)
REFIT = Parameter(
    "refit",
    "str",
    "include_validation",
    "include_validation trains once more with the validation days, as many epochs and trees as they chose; judged "
    "pushes the very model that was stopped on them. Both see nothing of the interval that judges them.",
    choices=("judged", "include_validation"),
)
MARGIN_ROWS = 20_000
"""How many rows the margins are for: a month has 21,000 to 29,000. A day's are some five times as large."""
MARGINS = Parameter(
    "margins",
    "str",
    "auc=0.008, log_loss=0.008",
    "How much ROC AUC and log loss (in nats) the model may lose against a champion on a month's rows: the lower 95 % "
    "bound of the difference decides. Shorter intervals have larger margins, by the root of the rows.",
)
BASELINE_GAINS = Parameter(
    "baseline_gains",
    "str",
    "auc=0.01, log_loss=0",
    "By how much it must be better than the share of flights that left the origin late in the last hour.",
)
CHAMPION_INCOMPARABLE = Parameter(
    "champion_incomparable",
    "str",
    "block",
    "Where the champion, or one of those before it, cannot answer for this interval's rows: block does not bless the "
    "model; accept judges it without that comparison, and the verdict says so.",
    choices=("block", "accept"),
)
P99_LIMIT_MS = Parameter(
    "p99_limit_ms",
    "float",
    100.0,
    "99 of 100 trial requests must be answered within so many milliseconds.",
    minimum=1,
    maximum=10000,
)

MEMORY_LIMIT_MB = Parameter(
    "memory_limit_mb",
    "int",
    2048,
    "The trial server with the candidate alone may be resident in so many MiB, at its largest.",
    minimum=64,
    maximum=1 << 20,
)
RELEASE = Parameter(
    "release",
    "str",
    "at_once",
    "at_once: a newer version is served as soon as it is pushed. canary: the served one stays, and "
    "flight_delays_release tries the newer one on live requests first.",
    choices=("at_once", "canary"),
)

PARAMETERS = (
    WINDOW_DAYS,
    LABEL_DELAY_HOURS,
    VALIDATION_DAYS,
    LAKE_VERSION,
    EPOCHS,
    SEED,
    STRATEGY,
    REFIT,
    MARGINS,
    BASELINE_GAINS,
    CHAMPION_INCOMPARABLE,
    P99_LIMIT_MS,
    MEMORY_LIMIT_MB,
    RELEASE,
)
