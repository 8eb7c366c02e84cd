"""What a person says of a release: how the candidate is tried, and how much worse or other it may be."""

from __future__ import annotations

from airtight.parameters import Parameter

VERSION = Parameter(
    "version",
    "str",
    "latest",
    "Which version is tried: latest (the highest that there is), or one such as 201307010400001.",
)
MODE = Parameter(
    "mode",
    "str",
    "canary",
    "canary: its share of the requests, drawn at random, is answered by the candidate. split: drawn by the request's "
    "key, so that a caller keeps its side. shadow: the candidate is asked too, and its answers are not returned.",
    choices=("canary", "split", "shadow"),
)
SHARE = Parameter(
    "share", "float", 0.1, "The candidate's share of the requests that name no version.", minimum=0.001, maximum=1
)
MINUTES = Parameter("minutes", "float", 10.0, "It is watched so many minutes.", minimum=0, maximum=7 * 24 * 60)
LONGEST_MINUTES = Parameter(
    "longest_minutes",
    "float",
    60.0,
    "And at most so many, where requests are few.",
    minimum=0,
    maximum=30 * 24 * 60,
)
MIN_REQUESTS = Parameter(
    "min_requests",
    "int",
    200,
    "Each version should see so many requests; with fewer, nothing is decided.",
    minimum=1,
    maximum=10**9,
)
WHEN_UNSURE = Parameter(
    "when_unsure",
    "str",
    "roll_back",
    "What becomes of the candidate when nothing is decided.",
    choices=("roll_back", "promote"),
)
MAX_MORE_FAILED = Parameter(
    "max_more_failed",
    "float",
    0.01,
    "The candidate's share of failed requests (5xx), and of refused ones (4xx), may be higher by so much. Clearly over "
    "it, the release ends at once.",
    minimum=0,
    maximum=1,
)
P99_RATIO = Parameter(
    "p99_ratio", "float", 2.0, "The candidate's p99 may be so many times the served version's.", minimum=1, maximum=1000
)
P99_FLOOR_MS = Parameter(
    "p99_floor_ms",
    "float",
    50.0,
    "Up to so many milliseconds any p99 is good, so that noise does not decide.",
    minimum=0,
    maximum=60000,
)
MEAN_LIMIT = Parameter(
    "mean_limit", "float", 0.05, "The means of both versions' answers may lie so far apart.", minimum=0, maximum=1
)
PSI_LIMIT = Parameter(
    "psi_limit",
    "float",
    0.25,
    "Population stability index of both versions' answers: below 0.1 is little, above 0.25 much.",
    minimum=0,
    maximum=100,
)
DIFFERENCE_LIMIT = Parameter(
    "difference_limit",
    "float",
    0.05,
    "In shadow mode: the mean difference of both versions' answers to one request may be so large.",
    minimum=0,
    maximum=1,
)
ASKED_BY = Parameter(
    "asked_by",
    "str",
    "person",
    "Who wants this release: what a push asks for gives way to a version that a person chose, or a newer one.",
    choices=("person", "push"),
)
OWNER = Parameter("owner", "str", "", "Whose release it is; filled in by the run.")
WATCHED = Parameter("watched", "str", "", "Why the watching has ended; filled in by the task watch.")

PARAMETERS = (
    VERSION,
    MODE,
    SHARE,
    MINUTES,
    LONGEST_MINUTES,
    MIN_REQUESTS,
    WHEN_UNSURE,
    MAX_MORE_FAILED,
    P99_RATIO,
    P99_FLOOR_MS,
    MEAN_LIMIT,
    PSI_LIMIT,
    DIFFERENCE_LIMIT,
    ASKED_BY,
    OWNER,
    WATCHED,
)
