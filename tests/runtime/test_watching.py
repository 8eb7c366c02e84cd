"""A watch day by day over the metadata store: states of the days before, equal bytes, faults, and the chain."""

import uuid
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from airtight.audit.log import AuditLog
from airtight.home import Home
from airtight.watch.alarm_acts import SILENCED
from components.watch.fault_rules import LEAST_PAST
from runtime import metadata_store
from runtime.launch import launch
from runtime.lineage.chain_steps import STEPS, in_lines, steps
from runtime.lineage.watch_chain import chains
from tests.tiny_pipeline.running import Run, fault, uri
from tests.tiny_pipeline.watching import TRAINING

pytestmark = pytest.mark.slow
WATCH, TRAIN = (f"tests.tiny_pipeline.watching:create_{name}" for name in ("watch", "training"))
FIRST = date(2013, 3, 1)
NODES = ("ingest", "summarize", "challenger", "days_before", "data_alarms", "decide")
FILES = {
    "data_alarms": ("alarms", ("judgement.json", "state.npz")),
    "decide": ("decision", ("decision.json", "state.json")),
}


def ends(first: int, days: int = 1) -> dict[str, str]:
    names = ("interval_start", "interval_end")
    return {
        name: f"{FIRST + timedelta(days=n)}T00:00:00+00:00"
        for name, n in zip(names, (first, first + days), strict=True)
    }


class Day:
    """One day's run of the watch."""

    def __init__(self, home: Home, number: int, **values) -> None:
        run = Run(home, WATCH, f"day-{number}-{uuid.uuid4().hex[:6]}", **ends(number), **values)
        self.outcomes = {node: run.node(node) for node in NODES}

    @property
    def decision(self) -> dict:
        outcome = self.outcomes["decide"]
        assert outcome.state == "complete", outcome.summary
        return outcome.outputs["decision"][0]["properties"]

    def written(self) -> dict[str, bytes]:
        """The bytes of all that the day's state is."""
        return {
            file: (uri(self.outcomes[node], key) / file).read_bytes()
            for node, (key, files) in FILES.items()
            for file in files
        }


def trained(home: Home, decision: dict, **values) -> dict:
    """The training run that a decision names, under the labels that Airflow's tasks give."""
    start, end = decision["trains"].split("/")
    run = Run(home, TRAIN, decision["run_id"], interval_start=start, interval_end=end, **values)
    outcomes = {}
    for node in ("ingest", "clear_training", "push"):
        labels = {"dag_id": TRAINING, "run_id": decision["run_id"]}
        outcomes[node] = launch(replace(run.request(node), labels=labels))
        if outcomes[node].state == "failed":
            break
    return outcomes


def test_a_backfill_of_the_watch_writes_the_bytes_of_the_daily_one(tmp_path, monkeypatch):
    """Daily, each training runs when it is decided; the backfill comes later, when all have run."""
    home = Home(tmp_path / "daily")
    daily = {}
    for number in range(8):
        daily[number] = Day(home, number)
        if daily[number].decision["action"] == "retrain":
            assert trained(home, daily[number].decision)["push"].state == "complete"
    actions = [day.decision["action"] for day in daily.values()]
    assert actions == ["keep", "keep", "retrain", "keep", "keep", "retrain", "keep", "keep"]
    assert [day.decision["version"] for day in daily.values()] == [1, 1, 1, *[20130304] * 3, *[20130307] * 2]
    # The same days once more, beside artifacts of days that came later.
    backfilled = {number: Day(home, number) for number in range(8)}
    for number, day in daily.items():
        assert backfilled[number].written() == day.written(), f"day {number}"
        assert backfilled[number].decision["run_id"] == day.decision["run_id"]


def test_a_day_that_is_cleared_is_made_of_the_day_before_it(tmp_path):
    home = Home(tmp_path / "home")
    days = [Day(home, number) for number in range(3)]
    assert Day(home, 1).written() == days[1].written()


def test_a_broken_feed_blocks_training_and_is_mended_by_judging_its_day_again(tmp_path):
    home = Home(tmp_path / "home")
    days = [Day(home, number, policy="airtight.watch.policies:never") for number in range(LEAST_PAST + 1)]
    assert {day.decision["action"] for day in days} == {"keep"}
    every, number = {"policy": "airtight.watch.policies:every?n=1"}, len(days)
    # A silence quiets people, and no gate.
    AuditLog(TRAINING, home).append(SILENCED, reason="known", until="9999-01-01T00:00:00+00:00")
    broken = Day(home, number, broken=1, regret=0.3, **every)
    assert broken.decision["data_alarm"] == 1
    assert broken.decision["action"] == "fix_data" and "size: no row has a value" in broken.decision["reason"]
    assert broken.decision["run_id"] == ""
    end = {"trains": f"{ends(number - 6)['interval_start']}/{ends(number)['interval_end']}"}
    stopped = trained(home, {**end, "run_id": "monthly"})
    assert list(stopped) == ["ingest", "clear_training"]
    assert "has found faults" in fault(stopped["clear_training"])["message"]
    assert Day(home, number + 1, **every).decision["action"] == "fix_data", "training would still learn from that day"
    unexplained = trained(home, {**end, "run_id": "unexplained"}, data_faults="accept")
    assert "override_reason" in fault(unexplained["clear_training"])["message"]
    accept = {"data_faults": "accept", "override_reason": "known for years"}
    accepted = trained(home, {**end, "run_id": "accepted"}, **accept, pushes=0)
    assert AuditLog(TRAINING, home).lines()[0][-1].entry["reason"].startswith("known for years (")
    clearance = accepted["clear_training"].outputs["clearance"][0]["properties"]
    assert (clearance["accepted"], clearance["audit_log"]) == (1, TRAINING), "whoever accepts it is in the audit log"
    mended = Day(home, number, **every)
    assert mended.decision["action"] == "retrain"
    # A run that named its files before the day was mended goes on with the broken ones when it is cleared too late.
    stale = trained(home, {**end, "run_id": "stale"}, broken=1)
    assert list(stale) == ["ingest", "clear_training"]
    blocked = fault(stale["clear_training"])
    assert "is from before these days were mended" in blocked["received"]
    assert "from its task ingest on" in blocked["remedy"]
    assert list(trained(home, {**end, "run_id": "after"}))[-1] == "push"
    # It breaks again and stays so: a fault each day, until a training accepts it.
    first = number + 1
    days = {day: Day(home, day, broken=1, **every) for day in range(first, first + 4)}
    assert {day.decision["action"] for day in days.values()} == {"fix_data"}
    assert f"no row has a value, since {ends(first)['interval_start'][:10]}" in days[first + 3].decision["reason"]
    trains = f"{ends(first)['interval_start']}/{ends(first + 3)['interval_end']}"
    usual = trained(
        home,
        {"trains": trains, "run_id": "usual"},
        broken=1,
        data_faults="accept",
        override_reason="usual here",
        pushes=0,
    )
    assert usual["clear_training"].outputs["clearance"][0]["properties"]["accepted"] == 1
    days[first + 4] = Day(home, first + 4, broken=1, **every)
    assert (days[first + 4].decision["action"], days[first + 4].decision["data_alarm"]) != ("fix_data", 1)
    # Whoever backfills them meets the acceptance on the same day.
    for day, daily in days.items():
        assert Day(home, day, broken=1, **every).written() == daily.written(), f"day {day}"


def test_the_chain_leads_from_the_alarm_to_the_outcome(tmp_path):
    home = Home(tmp_path / "home")
    outcomes = iter([{"pushes": 0}, {"pushes": -1}, {"pushes": 1}])
    decisions = []
    for number in range(24):
        day = Day(home, number)
        if day.decision["action"] == "retrain" and (values := next(outcomes, None)) is not None:
            decisions.append(day.decision)
            trained(home, day.decision, **values)
    with metadata_store.project_connection(home) as handle:
        all_days = chains(handle.store, TRAINING)
    assert len(all_days) == 24 and all_days[0].decision.properties["day"] == "2013-03-24"
    by_run = {chain.decision.properties["run_id"]: chain for chain in all_days if chain.decision.properties["run_id"]}
    retrained = [by_run[decision["run_id"]] for decision in decisions]
    assert [chain.outcome for chain in retrained] == ["refused", "failed", "serves"]
    assert all(chain.alarms and chain.losses for chain in retrained)
    assert [v.type.name for v in retrained[0].verdicts] == ["TrainingClearance"]
    served = retrained[2]
    assert served.version == int(decisions[2]["day"].replace("-", "")) + 1
    assert served.saved == pytest.approx(0.1) and "it saves 0.1 a row so far" in in_lines(served)[-1]
    assert [step.name for step in steps(served)] == list(STEPS) and all(step.at for step in steps(served))
    assert [step.name for step in steps(retrained[0])] == ["Alarm", "Decision", "Training", "Verdicts", "Outcome"]
    assert any("failed: The run failed at push." in line for line in in_lines(retrained[1]))
    not_begun = next(chain for chain in all_days if chain.outcome == "not begun")
    assert steps(not_begun)[-1].words.endswith("it waits, or none was triggered")
    backfilled = replace(not_begun, decided_by={"run_id": "backfill__2013-03-20T00:00:00+00:00"})
    assert steps(backfilled)[-1].words.startswith("would have trained 2013-03-")
    kept = next(chain for chain in all_days if chain.decision.properties["action"] == "keep")
    assert (kept.run, kept.outcome) == (None, "")


def test_states_lie_where_they_are_read(tmp_path):
    home = Home(tmp_path / "home")
    day = Day(home, 0)
    assert Path(uri(day.outcomes["data_alarms"], "alarms"), "state.npz").is_file()
    assert day.decision["reason"] == "the model has served 1 of 3 periods"
