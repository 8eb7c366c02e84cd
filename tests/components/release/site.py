"""Where a release takes place: three versions, stand-ins for server and router, and the components to call."""

from __future__ import annotations

from pathlib import Path

from airtight.rollout import state
from components import promote as promotion
from components import release as module
from components.artifacts import Promotion, Proposal, Release, ReleaseDecision
from components.modelling.served import Choice, Served
from tests.components.standins import Artifacts, StandIn, side

MAY, JUNE, JULY = 201306010400001, 201307010400001, 201308010400001
PERSON = Choice.only(JUNE, at="2013-08-02", by="admin", reason="June is fine")


class Site:
    """Three versions behind the stand-ins, and the components as the launcher calls them."""

    def __init__(self, folder: Path, stand_in: StandIn) -> None:
        self.folder, self.there, self.artifacts = folder, stand_in, Artifacts(folder)
        self.served = Served(folder / "models")
        for version in (MAY, JUNE, JULY):
            place = self.served.root / "toy" / str(version)
            place.mkdir(parents=True)
            (place / "saved_model.pb").write_text(str(version))
        self.served.enter("toy")
        self.named = {"serving_root": str(self.served.root), "server_url": stand_in.url, "timeout_s": 5.0}

    def start(self, version: int | str = JULY, **parameters) -> Release:
        release = self.artifacts.new(Release)
        settings = {"router_url": self.there.url, **self.named, "model_name": "toy", "minutes": 0.0} | parameters
        module.start_release.EXECUTOR_SPEC.executor_class._FUNCTION(release=release, version=str(version), **settings)
        return release

    def judge(self, release: Release, **parameters) -> ReleaseDecision:
        decision = self.artifacts.new(ReleaseDecision)
        parameters = {"router_url": self.there.url, "watched": "it was long enough"} | parameters
        module.judge_release.EXECUTOR_SPEC.executor_class._FUNCTION(release=release, decision=decision, **parameters)
        return decision

    def finish(self, release: Release, decision: ReleaseDecision | None = None) -> Promotion:
        made = self.artifacts.new(Promotion)
        module.finish_release.EXECUTOR_SPEC.executor_class._FUNCTION(
            release=release, decision=decision, promotion=made, router_url=self.there.url, **self.named
        )
        return made

    def propose(self, version: int | str) -> Proposal:
        proposal = self.artifacts.new(Proposal)
        promotion.propose.EXECUTOR_SPEC.executor_class._FUNCTION(
            proposal=proposal,
            model_name="toy",
            version=str(version),
            reason="it is better",
            serving_root=str(self.served.root),
            server_url=self.there.url,
        )
        return proposal

    def promote(self, proposal: Proposal) -> Promotion:
        made = self.artifacts.new(Promotion)
        promotion.promote.EXECUTOR_SPEC.executor_class._FUNCTION(
            proposal=proposal, promotion=made, router_url=self.there.url, **self.named
        )
        return made

    @property
    def choice(self) -> Choice:
        return self.served.choice("toy")

    @property
    def followed(self) -> state.Release | None:
        return state.read(self.served.root).get("toy")


def check(choice: Choice, followed: state.Release | None) -> None:
    """What must hold at every moment, whoever asks: an answer, and none of a candidate that is not tried yet."""
    if followed is None:
        is_promotion = bool(choice.trial) and not choice.release
        assert len(choice.versions) < 2 or is_promotion, "whoever names no version would be answered by the highest"
        return
    routed = {followed.stable} if followed.share < 1 or followed.mode == "shadow" else set()
    if followed.share > 0:
        routed.add(followed.candidate)
    assert routed <= set(choice.versions), "the router asks for versions by their numbers"
    assert choice.release == followed.id, "the mark is there before the router follows, and after it has forgotten"


def good(site: Site, **candidate) -> None:
    site.there.sides = {"stable": side(9000), "candidate": side(**candidate)}
