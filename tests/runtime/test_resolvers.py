"""The champion is that of the interval, in whatever order the intervals run."""

import json
import uuid

import pytest

from runtime import known_artifacts
from tests.tiny_pipeline.running import Run, uri

SOURCE = "tests.tiny_pipeline.champion:create_pipeline"


def ends(number: int) -> dict[str, str]:
    """The interval of a month of 2013."""
    return {f"interval_{end}": f"2013-{n:02}-01T00:00:00-05:00" for end, n in (("start", number), ("end", number + 1))}


def month(home, number: int, run: str = "", **values: int) -> str | None:
    """Runs one month of 2013 and gives the month of the champion that its evaluation met."""
    champions = months(home, number, run, **values)
    return champions[0] if champions else None


def months(home, number: int, run: str = "", **values: int) -> list[str]:
    """Runs one month of 2013 and gives the months of the champion that its evaluation met and of those before it."""
    started = Run(home, SOURCE, run or f"month-{number}", **ends(number), **values)
    outcomes = {name: started.node(name) for name in ("ingest", "train", "champion", "evaluate", "push")}
    assert all(outcome.state == "complete" for outcome in outcomes.values()), outcomes
    champions = json.loads((uri(outcomes["evaluate"], "evaluation") / "champions.json").read_text())
    return [interval[:7] for interval in champions]


def version(number: int) -> int:
    return int(f"2013{number + 1:02}0101")


def pushed(home, *numbers: int, run: str = "", **values: int | str) -> None:
    """Pushes months of 2013 without looking for their champions."""
    for number in numbers:
        started = Run(home, SOURCE, run or f"month-{number}", **ends(number), **values)
        assert all(started.node(name).state == "complete" for name in ("ingest", "train", "push"))


def met(home, number: int) -> list[str]:
    """The months of the champion that a month's evaluation would meet now, and of those before it, the latest first."""
    started = Run(home, SOURCE, f"look-{number}-{uuid.uuid4().hex}", **ends(number))
    outcomes = {name: started.node(name) for name in ("ingest", "train", "champion", "evaluate")}
    assert all(outcome.state == "complete" for outcome in outcomes.values()), outcomes
    champion, *earlier = json.loads((uri(outcomes["evaluate"], "evaluation") / "champions.json").read_text()) or [""]
    return [name[:7] for name in (champion, *sorted(earlier, reverse=True)) if name]


def promoted(home, number: int, at: int, pipeline: str = "create_pipeline", **values: int) -> None:
    """A month's version takes over, while `at` is the latest month of which one is registered."""
    values = {"to_version": version(number), "as_of": f"2013-{at + 1:02}-01T00:00:00-05:00", **values}
    run = Run(home, f"tests.tiny_pipeline.promoting:{pipeline}", uuid.uuid4().hex, **ends(number), **values)
    assert run.node("promote").state == "complete"


def test_without_a_champion_the_run_goes_on(home):
    assert month(home, 3) is None


def test_a_later_champion_is_never_met(home):
    assert month(home, 11) is None
    assert month(home, 3) is None, "November's model has a lower id, but it is not yet known in March"
    assert month(home, 4) == "2013-03"
    assert month(home, 11, run="again") == "2013-04"
    assert month(home, 6) == "2013-04", "the month before that was pushed, not the newest id"


def test_a_model_that_was_not_pushed_is_no_champion(home):
    assert month(home, 3) is None
    assert month(home, 4, push_it=0) == "2013-03"
    assert month(home, 5) == "2013-03"


def test_a_month_run_again_does_not_meet_itself(home):
    assert month(home, 3) is None
    assert month(home, 4) == "2013-03"
    assert month(home, 4, run="again") == "2013-03"


def test_the_champions_before_are_those_of_the_last_three_intervals(home):
    assert [months(home, number) for number in (3, 4, 5)] == [[], ["2013-03"], ["2013-04", "2013-03"]]
    months(home, 6, push_it=0)
    months(home, 5, run="again")
    for number in (7, 8):
        months(home, number)
    champion, *earlier = months(home, 9)
    assert champion == "2013-08" and sorted(earlier) == ["2013-04", "2013-05", "2013-07"]
    assert months(home, 4, run="again") == ["2013-03"], "a backfilled month meets none that came later"


@pytest.mark.parametrize("took_over", [0, -1], ids=["now", "before there was took_over"])
def test_what_was_registered_only_is_nobodys_champion(home, monkeypatch, took_over):
    monkeypatch.setattr(known_artifacts, "_PAGE", 2)
    pushed(home, 3, 4)
    pushed(home, 5, 6, 7, took_over=took_over, awaits_release=1)
    assert met(home, 8) == ["2013-04", "2013-03"]
    pushed(home, 8)
    assert met(home, 9) == ["2013-08", "2013-04", "2013-03"]


def test_a_version_that_is_pushed_again_is_no_champion_by_that(home):
    pushed(home, 3, 4)
    pushed(home, 5, 6, took_over=0)
    pushed(home, 7)
    pushed(home, 5, 6, run="again")
    assert met(home, 7) == ["2013-04", "2013-03"], "May and June never served: July does by now"
    assert met(home, 8) == ["2013-07", "2013-04", "2013-03"]
    promoted(home, 4, at=7)
    pushed(home, 7, run="again")
    assert met(home, 8) == ["2013-04", "2013-03"], "July was taken back"
    pushed(home, 7, run="at once", overridden="version 2013050101, chosen by a release")
    assert met(home, 8) == ["2013-07", "2013-04", "2013-03"], "it took the place of what a release had left"


def test_what_a_release_promoted_is_champion_and_what_it_took_back_is_not(home):
    pushed(home, 3, 4)
    pushed(home, 5, 6, took_over=0)
    promoted(home, 5, at=5, pipeline="create_release")
    promoted(home, 6, at=6, pipeline="create_release", took_over=0)
    assert met(home, 6) == ["2013-05", "2013-04", "2013-03"]
    assert met(home, 7) == ["2013-05", "2013-04", "2013-03"], "June was tried and taken back"


def test_after_a_rollback_the_version_that_serves_is_champion_and_before_it_what_served_then(home):
    pushed(home, 3, 4, 5, 6)
    promoted(home, 4, at=6)
    assert met(home, 7) == ["2013-04", "2013-03"], "May and June are out"
    assert met(home, 6) == ["2013-05", "2013-04", "2013-03"], "a backfill of June knows nothing of that"
    pushed(home, 7, took_over=0)
    assert met(home, 8) == ["2013-04", "2013-03"]
    pushed(home, 2, 4, run="backfill")
    assert met(home, 3) == ["2013-02"]
    pushed(home, 8)
    assert met(home, 9) == ["2013-08", "2013-04", "2013-03", "2013-02"]


def test_of_two_promotions_the_later_counts_and_lineage_names_it(home):
    pushed(home, 3, 4, 5)
    promoted(home, 3, at=5)
    promoted(home, 5, at=5, pipeline="create_release")
    assert met(home, 6) == ["2013-05", "2013-03"], "April was taken out, and did not come back"
    promoted(home, 4, at=5)
    assert met(home, 6) == ["2013-04", "2013-03"]
    run = Run(home, SOURCE, "once-more", **ends(6))
    run.node("ingest")
    outputs = run.node("champion").outputs
    (champion,), (promotion,) = outputs["pushed"], outputs["promotions"]
    assert champion["properties"]["version"] == promotion["properties"]["to_version"] == version(4)


def test_a_version_whose_push_nobody_knows_is_nobodys_champion(home):
    pushed(home, 3, 4)
    promoted(home, 5, at=5)
    assert met(home, 6) == ["2013-04", "2013-03"]


@pytest.mark.slow
def test_training_may_start_from_the_champion_of_then(home):
    def record(number: int, **values: int) -> dict:
        started = Run(home, "tests.tiny_pipeline.warm:create_pipeline", f"month-{number}", **ends(number), **values)
        outcomes = {name: started.node(name) for name in ("ingest", "transform", "champion", "train", "push")}
        assert all(outcome.state == "complete" for outcome in outcomes.values()), outcomes
        champions.append(
            [push["properties"]["interval_start"][:7] for push in outcomes["champion"].outputs.get("pushed", [])]
        )
        return json.loads((uri(outcomes["train"], "model_run") / "training.json").read_text())

    champions: list[list[str]] = []

    november, march, april = record(11), record(3), record(4)
    assert november["warm_start"] is march["warm_start"] is None, "in March November's model is not yet known"
    assert april["warm_start"]["judged"]["weights"] == 5
    assert [len(training["epochs"]["judged"]) for training in (november, march, april)] == [2, 2, 1]
    record(5, took_over=0)
    assert record(6)["warm_start"]["judged"]["weights"] == 5
    assert champions == [[], [], ["2013-03"], ["2013-04"], ["2013-04"]], "May's weights are inherited by nobody"
