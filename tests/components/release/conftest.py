"""A site where a person chose June, and every state that its two files go through."""

from __future__ import annotations

import pytest

from airtight.rollout import arm_metrics, state
from components.modelling.model_server import SERVER_VARIABLE
from components.modelling.served import Choice, Served
from components.rollout import judging, steps, switch
from tests.components.release.site import PERSON, Site, check
from tests.components.standins import standing_in


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    monkeypatch.delenv(arm_metrics.VARIABLE, raising=False)
    monkeypatch.setattr(switch, "POLL_S", 0.01)
    monkeypatch.setattr(steps, "SETTLE_S", 0.0)
    monkeypatch.setattr(judging, "POLL_S", 0.01)
    with standing_in(tmp_path / "models") as stand_in:
        made = Site(tmp_path, stand_in)
        made.served.choose("toy", PERSON)
        yield made


@pytest.fixture
def states(site, monkeypatch) -> list:
    """Every state of both files, as each write leaves it; each is checked."""
    seen: list[tuple[Choice, state.Release | None]] = []
    choose, write = Served.choose, state.write

    def noted() -> None:
        seen.append((site.choice, site.followed))
        check(*seen[-1])

    def choosing(self, model, choice):
        choose(self, model, choice)
        noted()

    def writing(root, releases):
        write(root, releases)
        noted()

    monkeypatch.setattr(Served, "choose", choosing)
    monkeypatch.setattr(state, "write", writing)
    return seen
