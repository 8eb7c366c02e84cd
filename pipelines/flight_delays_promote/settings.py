"""What a person says of a promotion, and what the approval adds."""

from __future__ import annotations

from airtight.parameters import Parameter

VERSION = Parameter(
    "version",
    "str",
    "previous",
    "What should be served: previous (the next lower version), a version such as 201307010400001, or latest (whatever "
    "is the highest, now and later).",
)
REASON = Parameter("reason", "str", "", "Why; it is shown to whoever approves, and kept.")
APPROVAL = Parameter("approval", "str", "", "Who approved it, when and with which note; filled in by the approval.")

PARAMETERS = (VERSION, REASON, APPROVAL)
