"""When the labels of a day are joined."""

from __future__ import annotations

SCHEDULE = "0 0 * * *"
"""A day is looked at when it is over: by then all but its last arrivals are known."""
FIRST, LAST = (2013, 3, 1), (2014, 1, 1)
DAYS = 7
"""An arrival, or that there will be none, is known within two days; corrections later than a week count no more."""
