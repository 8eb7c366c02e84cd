"""After a promotion: what is judged, what goes back by itself, and what is left as it is."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from tfx.types.standard_artifacts import PushedModel

from airtight.audit.actor import Actor, acting
from airtight.audit.log import AuditLog
from airtight.errors import TerminalError
from airtight.files import digest_of_tree
from components import after_promotion as module
from components.artifacts import LabelQuality, Promotion, PromotionOutcome
from components.modelling.registered import champions
from components.modelling.served import HIGHEST, RELEASE, Choice
from components.watch import quality_days
from components.watch.quality_days import RIPE, UNRIPE, DayQuality
from tests.components.release.site import JULY, JUNE, MAY, PERSON, good

ENDS = {MAY: "2013-06-01T00:00:00-04:00", JUNE: "2013-07-01T00:00:00-04:00", JULY: "2013-08-01T00:00:00-04:00"}
BAD = [0.2, 0.21, 0.19, 0.2, 0.2]


@pytest.fixture
def pushes(site) -> list[PushedModel]:
    """All three versions were pushed and served, one after the other; nobody chose."""
    site.served.choose("toy", HIGHEST)
    made = []
    for version, end in ENDS.items():
        push = site.artifacts.new(PushedModel)
        push.set_int_custom_property("pushed", 1)
        push.set_int_custom_property("version", version)
        push.set_string_custom_property("interval_end", end)
        push.set_string_custom_property("interval_start", "2013-01-01T00:00:00-05:00")
        push.set_string_custom_property("model_digest", digest_of_tree(site.served.root / "toy" / str(version)))
        made.append(push)
    return made


def quality(site, differences, *, version=JULY, former=JUNE, state=RIPE, first=1, **counts) -> LabelQuality:
    """Days of August on which both answered."""
    made = site.artifacts.new(LabelQuality)
    days = []
    for number, difference in enumerate(differences):
        pair = {"version": version, "beside": former, "metric": "log_loss", "rows": 900, **counts}
        pairs = [pair | {"difference": difference, "variance": 1e-4}] if difference is not None else []
        days.append(DayQuality(f"2013-08-{first + number:02}", "", state, rows=900, labelled=900, pairs=pairs))
    quality_days.write(Path(made.uri) / quality_days.FILE, days)
    made.interval_start = f"2013-08-{first + len(days) - 1:02}T00:00:00-04:00"
    made.interval_end = f"2013-08-{first + len(days):02}T00:00:00-04:00"
    return made


def judge(site, of: LabelQuality, pushed, promotions=(), **settings) -> PromotionOutcome:
    made = site.artifacts.new(PromotionOutcome)
    module.judge_promotion.EXECUTOR_SPEC.executor_class._FUNCTION(
        quality=of,
        outcome=made,
        pushed=pushed,
        promotions=list(promotions),
        **{"model_name": "toy", "zone": "America/New_York", "serving_root": site.named["serving_root"]} | settings,
    )
    return made


def take_back(site, outcome: PromotionOutcome, pushed, **settings) -> Promotion:
    made = site.artifacts.new(Promotion)
    module.take_back.EXECUTOR_SPEC.executor_class._FUNCTION(
        outcome=outcome, promotion=made, pushed=pushed, router_url=site.there.url, **site.named | settings
    )
    return made


def test_a_version_that_loses_more_goes_back_by_itself_and_everybody_knows(site, states, pushes):
    outcome = judge(site, quality(site, BAD), pushes)
    assert (outcome.version, outcome.former, outcome.outcome, outcome.by_itself) == (JULY, JUNE, "take_back", 1)
    assert outcome.took_over_at == "2013-08-01T00:00:00-04:00" and outcome.lower > 0
    with acting(Actor("toy_labels", "take_back", "run", "first", "first")):
        made = take_back(site, outcome, pushes)
    assert (made.to_version, made.took_over, made.changed) == (JUNE, 1, 1)
    assert (site.choice.pinned, site.choice.by, site.choice.reason) == (JUNE, RELEASE, outcome.reason)
    (line,) = [line.entry for line in AuditLog("toy").lines()[0]]
    assert (line["act"], line["version"], line["details"]["in_place_of"]) == ("rolled back", JUNE, JULY)
    assert line["reason"] == outcome.reason and line["digest"]
    assert made.get_int_custom_property("audit_line") or made.mlmd_artifact.custom_properties
    later = datetime.fromisoformat("2013-09-01T00:00:00-04:00")
    assert champions("toy", pushes, [made], later, 2) == [JUNE, MAY]
    before = datetime.fromisoformat("2013-08-02T00:00:00-04:00")
    assert champions("toy", pushes, [made], before) == [JULY], "a run for an earlier day knows nothing of it"
    record = json.loads((Path(outcome.uri) / "outcome.json").read_text())
    assert record["decided_on"] == "2013-08-03" and record["metric"] == "log_loss"
    assert "Taken back" in (Path(outcome.uri) / "report.html").read_text()
    # The next day has nothing to compare: the former champion was brought back.
    again = judge(site, quality(site, [None], first=10), pushes, [made])
    assert (again.version, again.outcome) == (JUNE, "kept") and "was brought back" in again.reason


def test_a_retry_says_the_same_and_adds_no_line(site, pushes):
    outcome = judge(site, quality(site, BAD), pushes)
    for attempt in ("first", "second"):
        with acting(Actor("toy_labels", "take_back", "run", attempt, "first")):
            made = take_back(site, outcome, pushes)
    assert (made.to_version, made.took_over, made.changed) == (JUNE, 1, 0)
    assert len(AuditLog("toy").lines()[0]) == 1


def test_a_version_that_is_as_good_is_watched_and_then_kept(site, pushes):
    watched = judge(site, quality(site, [0.01, -0.01, 0.0]), pushes)
    assert (watched.outcome, watched.days) == ("watching", 3)
    kept = judge(site, quality(site, [0.01, -0.01, 0.0] * 3), pushes)
    assert (kept.outcome, kept.days, kept.by_itself) == ("kept", 7, 0)
    made = take_back(site, kept, pushes)
    assert (made.took_over, made.changed, made.to_version, site.choice) == (0, 0, JULY, HIGHEST)
    assert made.summary.startswith("Nothing was changed. Kept")
    assert AuditLog("toy").lines()[0] == []


@pytest.mark.parametrize(
    ("days", "state", "words"),
    [
        ([0.2] * 5, UNRIPE, "none of 5 days since is ripe"),
        ([None] * 5, RIPE, "on none of 5 ripe days since did version"),
    ],
)
def test_without_ripe_pairs_there_is_not_enough_data(site, pushes, days, state, words):
    outcome = judge(site, quality(site, days, state=state), pushes)
    assert outcome.outcome == "watching" and words in outcome.reason


@pytest.mark.parametrize(
    ("sides", "counts", "outcome"),
    [
        ({}, {"wrong": 1}, "take_back"),
        ({"version": JUNE, "former": JULY}, {"beside_wrong": 1}, "take_back"),
        ({}, {"beside_wrong": 1}, "watching"),
        ({}, {"beside_wrong": 900, "rows": 0}, "watching"),
    ],
    ids=["the new one", "the new one, asked beside", "the former one", "the former one, each row"],
)
def test_a_version_that_answers_nan_is_taken_back_and_one_of_the_former_switches_nothing_off(
    site, pushes, sides, counts, outcome
):
    judged = judge(site, quality(site, [0.0], **sides, **counts), pushes)
    assert (judged.outcome, judged.version, judged.former) == (outcome, JULY, JUNE)
    made = take_back(site, judged, pushes)
    assert made.to_version == (JUNE if outcome == "take_back" else JULY)
    if outcome == "take_back":
        assert "Taken back: on 2013-08-01 1 of its answers were no predictions, such as NaN" in made.summary


def test_pairs_of_another_version_and_of_days_before_it_took_over_do_not_count(site, pushes):
    assert judge(site, quality(site, BAD, version=JUNE, former=MAY), pushes).outcome == "watching"
    july = quality(site, BAD)
    days = [day for day in quality_days.read(Path(july.uri)).values()]
    early = [DayQuality(**{**vars(day), "day": day.day.replace("-08-", "-07-")}) for day in days]
    quality_days.write(Path(july.uri) / quality_days.FILE, early)
    assert judge(site, july, pushes).days == 0
    shadow = judge(site, quality(site, [-value for value in BAD], version=JUNE, former=JULY), pushes)
    assert shadow.outcome == "take_back", "it does not matter which of both answered"


def test_the_first_champion_has_none_to_be_compared_with(site, pushes):
    outcome = judge(site, quality(site, BAD), pushes[2:])
    assert (outcome.outcome, outcome.former) == ("kept", 0) and "no champion served before" in outcome.reason


def test_what_a_person_promoted_is_judged_and_left_to_a_person(site, pushes):
    site.served.choose("toy", Choice.only(JUNE, by=RELEASE))
    pushes[2].set_int_custom_property("took_over", 0)
    by_hand = site.promote(site.propose(JULY))
    by_hand.approval, by_hand.interval_end = "ada, 2013-08-02", ENDS[JULY]
    outcome = judge(site, quality(site, BAD, first=2), pushes, [by_hand])
    assert (outcome.version, outcome.outcome, outcome.by_itself) == (JULY, "take_back", 0)
    assert "promoted by hand (ada, 2013-08-02)" in outcome.reason
    assert take_back(site, outcome, pushes).took_over == 0 and site.choice.pinned == JULY
    outcome.by_itself = 1  # As it was judged before the person chose.
    made = take_back(site, outcome, pushes)
    assert (made.took_over, site.choice.pinned) == (0, JULY) and "a person chose" in made.summary


def test_nothing_is_changed_where_another_version_serves_or_it_is_only_reported(site, pushes):
    outcome = judge(site, quality(site, BAD), pushes)
    reported = take_back(site, outcome, pushes, acts="report")
    assert (reported.took_over, reported.changed, site.choice) == (0, 0, HIGHEST)
    assert f"version {JUNE} would be served" in reported.summary
    site.served.choose("toy", Choice.only(MAY, by=RELEASE))
    made = take_back(site, outcome, pushes)
    assert (made.took_over, made.to_version, site.choice.pinned) == (0, MAY, MAY)


def test_a_former_champion_that_is_gone_or_damaged_is_not_served(site, pushes):
    outcome = judge(site, quality(site, BAD), pushes)
    (site.served.root / "toy" / str(JUNE) / "saved_model.pb").write_text("other")
    with pytest.raises(TerminalError, match="broken and cannot be served"):
        take_back(site, outcome, pushes)
    assert site.choice == HIGHEST


@pytest.mark.parametrize("differences", [BAD, [0.01, -0.01, 0.0], [None] * 3], ids=["worse", "as good", "no pairs"])
def test_a_former_champion_that_is_gone_is_not_served_and_the_outcome_is_that_of_the_day(site, pushes, differences):
    expected = judge(site, quality(site, differences), pushes).outcome
    shutil.rmtree(site.served.root / "toy" / str(JUNE))
    outcome = judge(site, quality(site, differences), pushes)
    assert (outcome.outcome, outcome.by_itself, outcome.former) == (expected, 0, JUNE)
    assert f"Version {JUNE}, the former champion, cannot be served again (it is gone)" in outcome.reason
    assert ("It would be taken back: over" in outcome.reason) == (differences is BAD)
    made = take_back(site, outcome, pushes)
    assert (made.took_over, made.to_version, site.choice) == (0, JULY, HIGHEST)


def test_a_release_that_compares_with_it_is_ended(site, states, pushes):
    site.served.choose("toy", Choice.only(JUNE, by=RELEASE))
    release = site.start(JULY, minutes=5.0)
    good(site)
    outcome = judge(site, quality(site, BAD, version=JUNE, former=MAY, first=1), pushes[:2])
    made = take_back(site, outcome, pushes)
    assert (made.to_version, made.took_over) == (MAY, 1)
    assert (site.choice.pinned, site.followed) == (MAY, None)
    assert str(JULY) in made.overridden and site.finish(release).took_over == 0


def test_a_choice_of_a_person_is_no_push_and_stays_after_all(site, pushes):
    site.served.choose("toy", PERSON)
    outcome = judge(site, quality(site, BAD), pushes)
    made = take_back(site, outcome, pushes)
    assert (made.took_over, made.changed, site.choice) == (1, 0, PERSON), "June is served already"
