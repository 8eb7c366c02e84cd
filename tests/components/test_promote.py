"""propose and promote: what a person is shown, and what is served then, with requests that do not stop."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tfx.types import standard_artifacts

from airtight.errors import TerminalError, TransientError
from airtight.files import digest_of_tree
from airtight.verdict import Check, Verdict
from components import promote as module
from components.artifacts import Promotion, Proposal
from components.modelling import judged, registered
from components.modelling.model_server import SERVER_VARIABLE, VersionState
from components.modelling.served import FILE, HIGHEST, RELEASE, STABLE, Choice, Served
from components.rollout import steps, switch
from tests.components.standins import Artifacts
from tests.serving import models
from tests.waiting import until

MAY, JUNE, JULY, JULY_2 = 201306010400001, 201307010400001, 201308010400001, 201308010400002
MONTHS = {
    version: (f"2013-{month:02}-01T00:00:00-04:00", f"2013-{month + 1:02}-01T00:00:00-04:00")
    for version, month in ((MAY, 5), (JUNE, 6), (JULY, 7), (JULY_2, 7))
}
AUC = {MAY: 0.7, JUNE: 0.71, JULY: 0.69, JULY_2: 0.7}


class Site:
    """A models' root with its versions, and the metadata of their pushes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.artifacts, self.server_url = folder, Artifacts(folder), ""
        self.served = Served(folder / "models")
        self.pushed: list = []
        self.evaluations: list = []
        self.promotions: list = []

    def push(self, version: int, make=None) -> None:
        """What a push of a month leaves, whose model is judged."""
        place = self.served.root / "toy" / str(version)
        place.parent.mkdir(parents=True, exist_ok=True)
        if make:
            make(place)
        else:
            place.mkdir()
            (place / "saved_model.pb").write_text(str(version))
        digest = digest_of_tree(place)
        pushed = self.artifacts.new(standard_artifacts.PushedModel)
        evaluation = self.artifacts.new(standard_artifacts.ModelEvaluation)
        for artifact in (pushed, evaluation):
            for name, instant in zip(("interval_start", "interval_end"), MONTHS[version], strict=True):
                artifact.set_string_custom_property(name, instant)
        pushed.set_int_custom_property("pushed", 1)
        pushed.set_int_custom_property("version", version)
        pushed.set_string_custom_property("model_digest", digest)
        evaluation.set_string_custom_property(judged.DIGEST, digest)
        evaluation.set_float_custom_property("roc_auc", AUC[version])
        Verdict("evaluate", "a month", (Check("auc against the champion", True),)).write(Path(evaluation.uri))
        self.pushed.append(pushed)
        self.evaluations.append(evaluation)
        self.served.enter("toy")

    def push_again(self, version: int) -> None:
        """What a push of a month leaves that finds its version there already."""
        push = self.artifacts.new(standard_artifacts.PushedModel)
        (first,) = (push for push in self.pushed if push.get_int_custom_property("version") == version)
        identity = push.id
        push.copy_from(first)
        push.id = identity
        push.set_int_custom_property("took_over", 1)
        self.pushed.append(push)

    def propose(self, version: int | str, reason: str = "it is better") -> Proposal:
        proposal = self.artifacts.new(Proposal)
        module.propose.EXECUTOR_SPEC.executor_class._FUNCTION(
            proposal=proposal,
            model_name="toy",
            version=str(version),
            pushed=self.pushed,
            evaluations=self.evaluations,
            promotions=self.promotions,
            reason=reason,
            serving_root=str(self.served.root),
            server_url=self.server_url,
        )
        return proposal

    def promote(self, proposal: Proposal, approval: str = "", timeout_s: float = 60.0) -> Promotion:
        promotion = self.artifacts.new(Promotion)
        module.promote.EXECUTOR_SPEC.executor_class._FUNCTION(
            proposal=proposal,
            promotion=promotion,
            approval=approval,
            serving_root=str(self.served.root),
            server_url=self.server_url,
            timeout_s=timeout_s,
        )
        self.promotions.append(promotion)
        return promotion

    def go(self, version: int | str, **parameters: str) -> Promotion:
        return self.promote(self.propose(version), **parameters)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    made = Site(tmp_path)
    for version in (MAY, JUNE, JULY):
        made.push(version)
    return made


def test_a_proposal_tells_a_person_what_is_served_what_would_be_and_how_both_were_judged(site):
    proposal = site.propose("previous", reason="July | learned\nfrom a broken feed")
    assert (proposal.model, proposal.version, proposal.served, proposal.pin) == ("toy", JUNE, JULY, 1)
    assert (proposal.interval_start, proposal.interval_end) == MONTHS[JUNE]
    for line in (
        f"| version | {JULY} (the highest) | **{JUNE}** |",
        "| judged on | 2013-07-01 up to but not 2013-08-01 | 2013-06-01 up to but not 2013-07-01 |",
        "| ROC AUC | 0.6900 | 0.7100 |",
        "evaluate passed",
        "Reason: July \\| learned from a broken feed",
        "stays served whatever is pushed",
    ):
        assert line in proposal.summary
    assert (Path(proposal.uri) / module.SUMMARY).read_text() == proposal.summary
    assert json.loads((Path(proposal.uri) / module.RECORD).read_text())["version"] == JUNE
    assert site.served.choice("toy") == HIGHEST, "a proposal changes nothing"


def test_back_forward_and_to_the_latest(site):
    promotion = site.go("previous", approval="admin at noon")
    assert (promotion.from_version, promotion.to_version, promotion.changed) == (JULY, JUNE, 1)
    assert (promotion.interval_start, promotion.interval_end) == MONTHS[JUNE]
    choice = site.served.choice("toy")
    assert (choice.versions, choice.labels, choice.by) == ((JUNE,), {STABLE: JUNE}, "admin at noon")
    assert site.go("previous").to_version == MAY
    assert "(promoted by hand)" in site.propose(JULY).summary
    assert "admin at noon" not in site.propose(JULY).summary
    assert site.go(JULY).from_version == MAY
    assert site.served.choice("toy").pinned == JULY
    released = site.go("latest")
    assert (released.from_version, released.to_version, released.changed) == (JULY, JULY, 1)
    assert site.served.choice("toy") == HIGHEST
    assert json.loads((Path(released.uri) / module.PROMOTION).read_text())["to_version"] == JULY


def test_what_was_overridden_is_recorded_and_when_in_data_time(site):
    first = site.go(MAY, approval="admin")
    assert (first.overridden, first.as_of) == ("", MONTHS[JULY][1]), "the highest was served because nobody chose"
    second = site.go(JUNE)
    at = site.served.choice("toy").at
    assert second.overridden == f"version {MAY}, chosen by admin at {second.overridden.split(' at ')[1]}" and at
    record = json.loads((Path(second.uri) / module.PROMOTION).read_text())
    assert (record["overridden"], record["as_of"]) == (second.overridden, MONTHS[JULY][1])
    assert site.go(JUNE).overridden == "", "nothing was changed"


def test_previous_is_no_version_that_never_served_or_was_taken_back(site):
    site.pushed[1].set_int_custom_property("took_over", 0)
    proposal = site.propose("previous")
    assert proposal.version == MAY
    assert f"Version {JUNE} was passed over: {module.NEVER_SERVED}." in proposal.summary
    site.go(JUNE)
    site.go(JULY)
    assert site.propose("previous").version == JUNE, "it has served since"
    site.go(MAY)
    site.go(JULY)
    assert site.propose("previous").version == MAY, "it was taken back"


def test_previous_is_an_attempt_of_the_same_interval_unless_that_was_taken_back(site):
    site.push(JULY_2)
    assert site.propose("previous").version == JULY
    site.go(MAY)
    site.go(JULY_2)
    proposal = site.propose("previous")
    assert proposal.version == MAY
    assert f"Version {JULY} was passed over: {module.NEVER_SERVED}." in proposal.summary
    site.go(JULY)
    site.go(JULY_2)
    assert site.propose("previous").version == JULY, "it has served since"


def test_the_champion_of_each_month_is_what_its_records_say_that_served(site):
    def champions(month: int) -> list[int]:
        return registered.champions("toy", site.pushed, site.promotions, datetime(2013, month, 2, tzinfo=UTC), count=3)

    assert [champions(month) for month in (6, 7, 8)] == [[MAY], [JUNE, MAY], [JULY, JUNE, MAY]]
    site.go("previous")
    assert [champions(month) for month in (6, 7, 8)] == [[MAY], [JUNE, MAY], [JUNE, MAY]]
    site.go(JULY)
    assert champions(8) == [JULY, JUNE, MAY]


def test_a_push_once_more_brings_back_no_version_that_was_taken_back(site):
    site.go(JUNE)
    site.push_again(JULY)
    august = datetime(2013, 8, 2, tzinfo=UTC)
    assert registered.champions("toy", site.pushed, site.promotions, august, 3) == [JUNE, MAY]
    site.go(MAY)
    assert registered.champions("toy", site.pushed, site.promotions, august, 3) == [MAY]


def test_a_version_whose_push_is_older_than_what_a_proposal_knows_is_champion_once_promoted(site):
    pushed, site.pushed = site.pushed, site.pushed[1:]
    proposal = site.propose(MAY)
    assert (proposal.interval_start, proposal.interval_end) == ("", "2013-06-01T04:00:00+00:00")
    assert "| judged on | 2013-07-01 up to but not 2013-08-01 | not known |" in proposal.summary
    site.promote(proposal)
    august = datetime(2013, 8, 2, tzinfo=UTC)
    assert registered.champions("toy", pushed, site.promotions, august, 3) == [MAY]
    assert registered.champions("other", pushed, site.promotions, august, 3) == [JULY, JUNE, MAY]


@pytest.mark.parametrize("version", ["latest", JUNE])
def test_what_is_served_already_is_left_alone(site, version):
    if version == JUNE:
        site.go(JUNE)
    before = site.served.file.read_text()
    proposal = site.propose(version)
    assert "served already: nothing would change" in proposal.summary
    promotion = site.promote(proposal)
    assert promotion.changed == 0
    assert "served already; nothing was changed" in promotion.summary
    assert site.served.file.read_text() == before


def test_what_a_push_left_served_is_a_persons_choice_once_a_person_promotes_it(site):
    site.served.choose("toy", Choice.only(JULY, at="2013-08-02", by=RELEASE, reason="the next waits for its release"))
    proposal = site.propose(JULY, reason="July is fine")
    assert "stays served whatever is pushed" in proposal.summary
    promotion = site.promote(proposal, approval="admin")
    assert (promotion.changed, f"Version {JULY} of toy is served as before" in promotion.summary) == (1, True)
    choice = site.served.choice("toy")
    assert (choice.versions, choice.by, choice.is_a_persons) == ((JULY,), "admin", True)


@pytest.mark.parametrize("version", ["201309010400001", "yesterday", "", "-1"])
def test_a_version_that_is_not_there_is_refused_with_those_that_are(site, version):
    with pytest.raises(TerminalError, match="no such version") as refused:
        site.propose(version)
    assert str(JUNE) in refused.value.expected


def test_before_the_first_version_there_is_nothing(site):
    site.go(MAY)
    with pytest.raises(TerminalError, match="no such version"):
        site.propose("previous")
    with pytest.raises(TerminalError, match="no such version") as refused:
        Site(site.folder / "empty").propose("latest")
    assert refused.value.remedy == "Push a model first."


def test_a_broken_version_is_refused_and_previous_passes_it_over(site):
    (site.served.root / "toy" / str(JUNE) / "saved_model.pb").write_text("other bytes")
    with pytest.raises(TerminalError, match=f"{JUNE} of toy is broken") as refused:
        site.propose(JUNE)
    assert "no longer those that were pushed" in refused.value.received
    proposal = site.propose("previous")
    assert proposal.version == MAY
    assert f"Version {JUNE} was passed over" in proposal.summary
    (site.served.root / "toy" / str(MAY) / "saved_model.pb").unlink()
    with pytest.raises(TerminalError, match="no such version") as refused:
        site.propose("previous")
    assert "holds no SavedModel" in refused.value.received


def test_a_version_whose_push_nobody_knows_can_be_served_and_says_so(site):
    del site.pushed[1:2]
    proposal = site.propose(JUNE)
    assert f"How {JUNE} was judged is not known" in proposal.summary
    assert site.promote(proposal).to_version == JUNE


def test_a_proposal_is_refused_when_what_is_served_has_changed_since(site):
    proposal, other = site.propose(JUNE), site.propose(MAY)
    site.promote(other)
    with pytest.raises(TerminalError, match="out of date") as refused:
        site.promote(proposal)
    assert f"version {MAY} to be served, promoted by hand" in refused.value.received
    assert site.served.choice("toy").pinned == MAY
    latest = site.propose("latest")
    (site.served.root / "toy" / "201309010400001").mkdir()
    with pytest.raises(TerminalError, match="out of date") as refused:
        site.promote(latest)
    assert "201309010400001" in refused.value.received


def test_of_two_promotions_at_once_the_second_sees_what_the_first_did(site):
    proposals = [site.propose(JUNE), site.propose(MAY), site.propose(JUNE)]

    def outcome(proposal):
        try:
            return site.promote(proposal).changed
        except TerminalError:
            return "refused"

    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(outcome, proposals))
    assert outcomes in ([1, "refused", 0], [0, "refused", 1], ["refused", 1, "refused"])
    assert site.served.choice("toy").pinned == (JUNE if outcomes[1] == "refused" else MAY)


class Slow:
    """A server that serves July and never loads another version, or says at once why not."""

    url = "http://models"

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.saw: list[tuple[int, ...]] = []

    def versions(self, model: str) -> dict[int, VersionState]:
        broken = {JUNE: VersionState("END", self.error)} if self.error and self.saw else {}
        return {JULY: VersionState("AVAILABLE", ""), **broken}

    def available(self, model: str) -> set[int]:
        return {JULY}

    available_anywhere = available


@pytest.mark.parametrize(("error", "fault"), [("", TransientError), ("no graph", TerminalError)])
def test_what_the_server_does_not_serve_is_taken_back(site, monkeypatch, error, fault):
    server = Slow(error)
    monkeypatch.setattr(steps.ModelServer, "named", lambda url: server)
    written = []
    choose = Served.choose
    monkeypatch.setattr(
        Served,
        "choose",
        lambda self, model, choice: (written.append(choice), server.saw.append(()), choose(self, model, choice)),
    )
    proposal = site.propose(JUNE)
    with pytest.raises(fault):
        site.promote(proposal, timeout_s=0.3)
    assert written == [Choice((JUNE, JULY), trial=JUNE, after=HIGHEST), HIGHEST], "beside the served one first"
    assert site.served.choice("toy") == HIGHEST


@pytest.mark.parametrize("before", [HIGHEST, Choice.only(JULY, at="2013-08-02", reason="July is fine")])
def test_what_a_killed_promotion_left_is_taken_back_by_the_next(site, before):
    site.served.choose("toy", before)
    proposal = site.propose(JUNE)
    site.served.choose("toy", before.beside(JUNE, JULY))
    assert site.served.choice("toy").pinned == before.pinned, "a push meanwhile goes by what was chosen"
    assert site.propose(JUNE).summary == proposal.summary
    assert site.promote(proposal).changed == 1
    site.served.choose("toy", before.beside(JUNE, JULY))
    promotion = site.go(JULY if before.pinned else "latest")
    assert (promotion.changed, site.served.choice("toy")) == (0, before)


def test_a_promotion_that_is_stopped_is_taken_back(site, monkeypatch):
    server = Slow()
    monkeypatch.setattr(steps.ModelServer, "named", lambda url: server)

    def stop(*_):
        raise KeyboardInterrupt

    proposal = site.propose(JUNE)
    monkeypatch.setattr(switch, "await_server", stop)
    with pytest.raises(KeyboardInterrupt):
        site.promote(proposal)
    assert site.served.choice("toy") == HIGHEST


@pytest.mark.slow
def test_the_server_changes_over_and_back_and_no_request_fails(tmp_path, monkeypatch):
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    site = Site(tmp_path)
    for version, scale in ((MAY, 5.0), (JUNE, 6.0), (JULY, 7.0)):
        site.push(version, lambda place, scale=scale: models.save_affine(place, scale))
    (site.served.root / "toy" / "201308010400002").mkdir()
    (site.served.root / "toy" / "201308010400002" / "saved_model.pb").write_text("no graph")
    polling = ("--model_config_file_poll_wait_seconds=0.2", "--file_system_poll_wait_seconds=0.2")
    with models.running(tmp_path, f"--model_config_file={site.served.file}", *polling) as server:
        site.server_url = f"http://127.0.0.1:{server.rest}"
        server.await_states("toy", **{f"v{JULY}": "AVAILABLE"})
        answers: list[tuple[int, object]] = []
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                answers.append(server.ask("POST", "/v1/models/toy:predict", {"instances": [1]}))

        def ask_by_label() -> None:
            while not ended.is_set():
                answers.append(server.ask("POST", f"/v1/models/toy/labels/{STABLE}:predict", {"instances": [1]}))

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask), pool.submit(ask)]
            try:
                promotion = site.go("previous")
                assert (promotion.from_version, promotion.to_version) == (JULY, JUNE)
                assert server.ask("POST", "/v1/models/toy:predict", {"instances": [1]}) == (200, {"predictions": [6.0]})
                asking.append(pool.submit(ask_by_label))
                assert site.go("previous").to_version == MAY
                assert server.ask("POST", "/v1/models/toy:predict", {"instances": [1]}) == (200, {"predictions": [5.0]})
                assert site.go(JULY).from_version == MAY
                assert server.ask("POST", f"/v1/models/toy/labels/{STABLE}:predict", {"instances": [1]})[1] == {
                    "predictions": [7.0]
                }
                with pytest.raises(TerminalError, match="201308010400002 of toy is broken"):
                    site.promote(site.propose(201308010400002))
                assert site.served.choice("toy").pinned == JULY
                assert server.ask("POST", "/v1/models/toy:predict", {"instances": [1]}) == (200, {"predictions": [7.0]})
                # It stays through a restart of the server as well, which reads nothing else.
                assert server.states("toy")[JUNE] != "AVAILABLE"
            finally:
                ended.set()
            for each in asking:
                each.result()
        assert {status for status, _ in answers} == {200}
        assert {answer["predictions"][0] for _, answer in answers} == {5.0, 6.0, 7.0}
        assert len(answers) > 100
        # Gone, the server is no reason to write anything.
    with pytest.raises(TransientError, match="cannot be reached"):
        site.propose("previous")


@pytest.mark.slow
def test_a_promoted_version_is_served_after_a_restart_and_its_label_too(tmp_path, monkeypatch):
    monkeypatch.delenv(SERVER_VARIABLE, raising=False)
    site = Site(tmp_path)
    for version, scale in ((JUNE, 6.0), (JULY, 7.0)):
        site.push(version, lambda place, scale=scale: models.save_affine(place, scale))
    site.go(JUNE)
    with models.running(tmp_path, f"--model_config_file={site.served.root / FILE}") as server:
        until(lambda: server.states("toy").get(JUNE) == "AVAILABLE", "June is served")
        assert server.ask("POST", "/v1/models/toy:predict", {"instances": [1]}) == (200, {"predictions": [6.0]})
        assert server.ask("GET", f"/v1/models/toy/labels/{STABLE}")[0] == 200
        assert JULY not in server.states("toy")
