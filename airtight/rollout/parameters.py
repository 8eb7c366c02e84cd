"""What a person may set for a release: how the candidate is tried, and how much worse or other it may be."""

from __future__ import annotations

from airtight.parameters import Parameter
from airtight.rollout.rules import Margins

RELEASING = (
    Parameter(
        "version",
        "str",
        "latest",
        "Which version is tried: latest (the highest that there is), or one such as 201307010400001.",
    ),
    Parameter(
        "mode",
        "str",
        "canary",
        "canary: its share of the requests, drawn at random, is answered by the candidate. split: drawn by the "
        "request's key, so that a caller keeps its side. shadow: the candidate is asked too, and its answers are not "
        "returned.",
        choices=("canary", "split", "shadow"),
    ),
    Parameter(
        "share",
        "float",
        0.1,
        "The candidate's share of the requests that name no version; 1 in shadow mode alone.",
        minimum=0.001,
        maximum=1,
    ),
    Parameter(
        "minutes",
        "float",
        10.0,
        "It is watched for at least so many minutes before it takes over.",
        minimum=0,
        maximum=7 * 24 * 60,
    ),
    Parameter(
        "longest_minutes",
        "float",
        60.0,
        "And at most for so many. What is not decided then is not promoted; start and watch tell the requests needed.",
        minimum=0,
        maximum=30 * 24 * 60,
    ),
    Parameter(
        "min_requests",
        "int",
        Margins.requests,
        "Each version must be asked so many before the candidate takes over; the margins below mostly need more.",
        minimum=1,
        maximum=10**9,
    ),
    Parameter(
        "when_unsure",
        "str",
        "roll_back",
        "What becomes of the candidate when nothing is decided; promote has no error rate.",
        choices=("roll_back", "promote"),
    ),
    Parameter(
        "max_more_failed",
        "float",
        Margins.failed,
        "The candidate's share of failed requests (5xx) may be higher by so much. It takes over when that is certain "
        "at 95 %; when the opposite is, the release ends at once. Half the margin needs about four times the requests.",
        minimum=0.0001,
        maximum=1,
    ),
    Parameter(
        "max_more_refused",
        "float",
        Margins.refused,
        "So may its share of refused requests (4xx), which are mostly the callers' and fall to both versions by "
        "chance.",
        minimum=0.0001,
        maximum=1,
    ),
    Parameter("max_more_slow", "float", Margins.slow, "So may its share of slow requests.", minimum=0.0001, maximum=1),
    Parameter(
        "slow_ratio",
        "float",
        Margins.slow_ratio,
        "A request is slow when it takes longer than so many times the served version's p95,",
        minimum=1,
        maximum=1000,
    ),
    Parameter(
        "slow_floor_ms",
        "float",
        Margins.slow_floor_ms,
        "and longer than so many milliseconds.",
        minimum=0,
        maximum=60000,
    ),
    Parameter(
        "mean_limit",
        "float",
        Margins.mean,
        "The mean answers of both versions may lie so far apart, by request: probabilities, or numbers in units of the "
        "range that evaluate measured.",
        minimum=0.0001,
        maximum=1,
    ),
    Parameter(
        "distribution_limit",
        "float",
        Margins.distribution,
        "So may both versions' shares of answers up to any value (the Kolmogorov distance).",
        minimum=0.001,
        maximum=1,
    ),
    Parameter(
        "difference_limit",
        "float",
        Margins.difference,
        "In shadow mode: the mean difference of both versions' answers to one request may be so large.",
        minimum=0.0001,
        maximum=1,
    ),
    Parameter(
        "answers",
        "str",
        Margins.answers,
        "same: a candidate that answers otherwise than these limits allow is taken back, also one that is better. any: "
        "its answers are reported and decide nothing, for a model that is meant to answer otherwise.",
        choices=("same", "any"),
    ),
    Parameter(
        "asked_by",
        "str",
        "person",
        "Who wants this release: what a push asks for gives way to a version that a person chose, or a newer one.",
        choices=("person", "push"),
    ),
    Parameter("owner", "str", "", "Whose release it is; filled in by the run."),
    Parameter("watched", "str", "", "Why the watching has ended; filled in by the task watch."),
)
