"""The champion is that of the interval, in whatever order the intervals run."""

import json

import pytest

from tests.tiny_pipeline.running import Run, uri

SOURCE = "tests.tiny_pipeline.champion:create_pipeline"


def month(home, number: int, run: str = "", **values: int) -> str | None:
    """Runs one month of 2013 and gives the month of the champion that its evaluation met."""
    champions = months(home, number, run, **values)
    return champions[0] if champions else None


def months(home, number: int, run: str = "", **values: int) -> list[str]:
    """Runs one month of 2013 and gives the months of the champion that its evaluation met and of those before it."""
    ends = {f"interval_{end}": f"2013-{n:02}-01T00:00:00-05:00" for end, n in (("start", number), ("end", number + 1))}
    started = Run(home, SOURCE, run or f"month-{number}", **ends, **values)
    outcomes = {name: started.node(name) for name in ("ingest", "train", "champion", "evaluate", "push")}
    assert all(outcome.state == "complete" for outcome in outcomes.values()), outcomes
    champions = json.loads((uri(outcomes["evaluate"], "evaluation") / "champions.json").read_text())
    return [interval[:7] for interval in champions]


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


@pytest.mark.slow
def test_training_may_start_from_the_champion_of_then(home):
    def record(number: int) -> dict:
        ends = {f"interval_{e}": f"2013-{n:02}-01T00:00:00-05:00" for e, n in (("start", number), ("end", number + 1))}
        started = Run(home, "tests.tiny_pipeline.warm:create_pipeline", f"month-{number}", **ends)
        outcomes = {name: started.node(name) for name in ("ingest", "transform", "champion", "train", "push")}
        assert all(outcome.state == "complete" for outcome in outcomes.values()), outcomes
        return json.loads((uri(outcomes["train"], "model_run") / "training.json").read_text())

    november, march, april = record(11), record(3), record(4)
    assert november["warm_start"] is march["warm_start"] is None, "in March November's model is not yet known"
    assert april["warm_start"]["judged"]["weights"] == 5
    assert [len(told["epochs"]["judged"]) for told in (november, march, april)] == [2, 2, 1]
