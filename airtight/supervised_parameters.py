"""What a person may set for a run of a supervised pipeline, its promotions, releases and batch predictions.

Each with a type, a default, a range and a description for the trigger form. A pipeline's settings may give others of
the defaults (`airtight.supervised.Supervised.defaults`).
"""

from __future__ import annotations

from dataclasses import replace

from airtight.parameters import Parameter

LAKE_VERSION = Parameter(
    "lake_version",
    "str",
    "then",
    "Which state of the lake is read: as it was known then, when the interval was judged, or as it is now with "
    "corrections.",
    choices=("then", "now"),
)
RELEASE = Parameter(
    "release",
    "str",
    "at_once",
    "at_once: a newer version is served as soon as it is pushed. canary: the served one stays, and {name}_release "
    "tries the newer one on live requests first.",
    choices=("at_once", "canary"),
)
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
    0,
    "Hours after the interval's end until it is judged: the labels of its last rows are known by then.",
    minimum=0,
    maximum=240,
)
DATA_FAULTS = Parameter(
    "data_faults",
    "str",
    "block",
    "Where {name}_watch has found faults in the data that are not mended: block does not train on them; accept does, "
    "for override_reason; the run's clearance says so, and the watch takes the data as they are for usual from then "
    "on.",
    choices=("block", "accept"),
)
"""Of a training whose pipeline is watched."""
TRAINING = (
    WINDOW_DAYS,
    LABEL_DELAY_HOURS,
    Parameter(
        "validation_days",
        "int",
        14,
        "The last days before the interval are kept from training: they tell when to stop.",
        minimum=3,
        maximum=90,
    ),
    LAKE_VERSION,
    Parameter(
        "epochs",
        "int",
        6,
        "Passes over the training data, at most; the learning rate falls over all of them.",
        minimum=1,
        maximum=200,
    ),
    Parameter("seed", "int", 0, "Seed of every random choice of the training.", minimum=0, maximum=2**31 - 1),
    Parameter(
        "strategy",
        "str",
        "mirrored",
        "Where it trains: mirrored over all GPUs, or the CPU where there is none; over two logical CPUs; a TPU; one "
        "device.",
        choices=("mirrored", "mirrored_cpus", "tpu", "one_device"),
    ),
    Parameter(
        "refit",
        "str",
        "include_validation",
        "include_validation trains once more with the validation days, as many epochs and trees as they chose; judged "
        "pushes the very model that was stopped on them. Both see nothing of the interval that judges them.",
        choices=("judged", "include_validation"),
    ),
    Parameter(
        "margins",
        "str",
        "",
        "How much worse than a champion the model may be, by metric, such as auc=0.008, log_loss=0.008, or mae=2% of "
        "the champion's: the lower 95 % bound of the difference decides. Intervals of fewer rows have larger margins, "
        "by the root of the rows. Metrics that are not named have their task's.",
    ),
    Parameter(
        "baseline_gains",
        "str",
        "",
        "How much better it must be than the baseline, which knows the schema's baseline feature alone; likewise.",
    ),
    Parameter(
        "champion_incomparable",
        "str",
        "block",
        "Where the champion, or one of those before it, cannot answer for this interval's rows: block does not bless "
        "the model; accept judges it without that comparison, and the verdict says so.",
        choices=("block", "accept"),
    ),
    Parameter(
        "override_reason",
        "str",
        "",
        "Why a gate is overridden; it must be given where a parameter is accept, and is kept in the audit log.",
    ),
    Parameter(
        "p99_limit_ms",
        "float",
        100.0,
        "99 of 100 trial requests must be answered within so many milliseconds.",
        minimum=1,
        maximum=10000,
    ),
    Parameter(
        "memory_limit_mb",
        "int",
        2048,
        "The trial server with the candidate alone may be resident in so many MiB, at its largest.",
        minimum=64,
        maximum=1 << 20,
    ),
    RELEASE,
)

PROMOTION = (
    Parameter(
        "version",
        "str",
        "previous",
        "What should be served: previous (the next lower version), a version such as 201307010400001, or latest "
        "(whatever is the highest, now and later).",
    ),
    Parameter("reason", "str", "", "Why; it is shown to whoever approves, and kept. It must be given."),
    Parameter("approval", "str", "", "Who approved it, when and with which note; filled in by the approval."),
)

ALARM_ACTS = (
    Parameter(
        "action",
        "str",
        "acknowledge",
        "acknowledge one day's alarm; silence alarms until an instant; end_silence before its time.",
        choices=("acknowledge", "silence", "end_silence"),
    ),
    Parameter(
        "alarm",
        "str",
        "",
        "The local day whose alarm it is, such as 2013-06-14; for a silence the beginning of the alarms' words, or "
        "empty for all of them.",
    ),
    Parameter("until", "str", "", "When a silence ends, such as 2013-06-20T09:00 (UTC); within 90 days."),
    Parameter("reason", "str", "", "Why; it is shown to whoever approves, and kept. It must be given."),
    Parameter("approval", "str", "", "Who approved it, when and with which note; filled in by the approval."),
)

BATCH_PREDICTION = (
    Parameter(
        "version",
        "str",
        "as_of",
        "Which model scores: as_of (by data time, the version that had served last when the interval began; with a "
        "label delay it was judged that much later), former (the champion before that one), served (what is served "
        "now), or a version such as 201307010400001.",
    ),
    LAKE_VERSION,
)

WATCHING = (
    replace(WINDOW_DAYS, description="How many days before the day challengers learn from at most; 0 is all of them."),
    LABEL_DELAY_HOURS,
    LAKE_VERSION,
    Parameter(
        "alarms_a_year",
        "float",
        4.0,
        "How many usual days a year may alarm by chance, over all features together.",
        minimum=0.1,
        maximum=365,
    ),
    Parameter(
        "policy",
        "str",
        "airtight.watch.policies:never",
        "What decides about retraining: package.module:function?name=value.",
    ),
)

LABELLING = (
    LAKE_VERSION,
    Parameter(
        "acts",
        "str",
        "act",
        "act: a version that loses more than the former champion is taken back. report: it is only said. A backfill "
        "always reports.",
        choices=("act", "report"),
    ),
)
