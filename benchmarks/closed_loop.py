"""The closed loop, live: a shift is noticed, retrained for and released; a bad model taken back; a broken feed blocked.

    python -m benchmarks.closed_loop [--hold]

Starts services of its own: Airflow, launcher, Spark, model server, router. The pipeline is `benchmarks.parcels`, whose
rows become known day by day. Requests go through the router from the first model on. Everything is done by Airflow's
DAGs, as a person or the schedule has them run. Prints each step with the seconds since its cause, and the lineage of
the retraining; fails where a step comes to something else than it must, and never because of a time.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from airtight.errors import AirtightError
from airtight.home import Home
from benchmarks.live_traffic import Traffic
from benchmarks.own_services import own_services
from benchmarks.parcels import rows
from benchmarks.parcels.settings import SETTINGS
from components.data.lake import Lake
from runtime import metadata_store
from runtime.lineage.chain_steps import in_lines
from runtime.lineage.watch_chain import SERVES, Chain, chains
from services.airflow_api import OVER, Airflow
from services.settings import Settings
from services.supervisor import ALWAYS

DAGS, OPERATING = (
    f"""
from airtight.supervised import BY_INTERVAL, OPERATIONS
from benchmarks.parcels.settings import SETTINGS
from plugins.tfx_airflow.supervised import supervised_dags

globals().update(supervised_dags(SETTINGS, parts={parts}))
"""
    for parts in ("BY_INTERVAL", "OPERATIONS")
)
TRAINING, WATCH, RELEASE = "parcels", "parcels_watch", "parcels_release"
FIRST, WATCHED = SETTINGS.first, date(2025, 1, 3)
"""The first day of the lake, and the first that is watched."""
LIVE = date(2025, 1, 10)
"""The day from which on days are watched one by one; the days before are backfilled."""
SHIFT = LIVE + timedelta(days=2)
MOST_DAYS = 14
"""Days after the shift within which it must be noticed."""
PATIENCE_S = 1800.0


@dataclass
class Loop:
    """The services, the data and what has been done.

    Args:
      home: The state folder.
      airflow: Its Airflow.
      steps: Rows of the table: step, day of the data, seconds.
    """

    home: Home
    airflow: Airflow
    steps: list[tuple[str, str, float]] = field(default_factory=list)

    def add(self, step: str, day: date | str, since: float) -> float:
        """Notes a step that has ended; gives the present instant, seconds."""
        now = time.time()
        self.steps.append((step, str(day), now - since))
        print(f"{now - since:7.1f} s  {day}  {step}", flush=True)
        return now

    def is_parsed(self, dag: str) -> bool:
        """Whether Airflow has parsed a DAG; on a busy machine compiling its file may take several attempts."""
        try:
            self.airflow.await_dag(dag, timeout_s=60, file="operating" if dag == RELEASE else "measured")
        except AirtightError as error:
            print(error, flush=True)
            return False
        return True

    def know(self, *days: date, **kind: bool) -> float:
        """Writes days into the lake; gives the instant at which they are there."""
        rows.become_known(Lake(self.home.lake), *days, **kind)
        return time.time()

    def run(self, dag: str, conf: dict[str, Any], expected: str = "success") -> str:
        """Triggers a DAG and waits until the run has ended; gives its id."""
        run = self.airflow.trigger(dag, conf)
        self.await_run(dag, run, expected)
        return run

    def await_run(self, dag: str, run: str, expected: str = "success") -> None:
        """Waits until a run has ended, as it must."""
        self.until(lambda: self.airflow.run_state(dag, run) in OVER, f"{run} of {dag} ends")
        state = self.airflow.run_state(dag, run)
        if state != expected:
            states = {task.id: task.state for task in self.airflow.tasks(dag, run)}
            raise SystemExit(f"{run} of {dag} ended as {state}, not {expected}: {states}")

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        """Waits for something and gives it."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := holds()):
            if time.monotonic() > deadline:
                raise SystemExit(f"Waited in vain: {what}.")
            time.sleep(0.5)
        return value

    def watch(self, day: date) -> dict[str, Any]:
        """Has a day watched; gives what was decided."""
        run = self.run(WATCH, {"interval": day.isoformat()})
        return self.decided(run)

    def decided(self, run: str) -> dict[str, Any]:
        """What a run of the watch decided."""
        (decision,) = self.airflow.outputs(WATCH, run, "decide")["decision"]
        properties: dict[str, Any] = decision["properties"]
        print(f"           {properties['day']}: {properties['action']}: {properties['reason']}", flush=True)
        return properties

    def runs(self, dag: str) -> set[str]:
        """Ids of all runs of a DAG."""
        states = ("success", "failed", "running", "queued")
        return {str(run["dag_run_id"]) for state in states for run in self.airflow.runs(dag, state)}

    def chain(self, day: date) -> Chain:
        """The lineage of a day's decision."""
        with metadata_store.project_connection(self.home) as handle:
            return next(c for c in chains(handle.store, TRAINING) if c.decision.properties["day"] == str(day))


def first_model(loop: Loop) -> float:
    """A model from data before the first live day, and the watch of the days before it."""
    loop.know(*_days(FIRST, LIVE))
    (loop.home.path / "dags" / "operating.py").write_text(OPERATING, encoding="utf-8")
    for dag in (TRAINING, WATCH, RELEASE):
        loop.until(functools.partial(loop.is_parsed, dag), f"{dag} is parsed")
        loop.airflow.unpause(dag)
    begun = time.time()
    loop.run(TRAINING, {"interval": f"{LIVE - timedelta(days=3)}/{LIVE}"})
    now = loop.add("first model trained and served", LIVE - timedelta(days=1), begun)
    first, last = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (WATCHED, LIVE - timedelta(days=1)))
    backfill = loop.airflow.backfill(WATCH, first, last, parallel=2, reprocess="none")
    loop.until(lambda: loop.airflow.backfill_ended(backfill), "the backfill ends")
    return loop.add(f"{(LIVE - WATCHED).days} days watched by a backfill", f"{WATCHED} to {last.date()}", now)


def shift(loop: Loop, traffic: Traffic) -> date:
    """Days go on, and from one on labels depend otherwise on the features; gives the day on which it was noticed."""
    before, shifted_at = loop.runs(TRAINING), 0.0
    for day in _days(LIVE, SHIFT + timedelta(days=MOST_DAYS)):
        known_at = loop.know(day, shifted=day >= SHIFT)
        shifted_at = shifted_at or (known_at if day >= SHIFT else 0.0)
        traffic.rows = _instances(day, shifted=day >= SHIFT)
        decision = loop.watch(day)
        if decision["action"] == "retrain":
            break
        check(loop.runs(TRAINING) == before, "nothing was trained where nothing was decided")
    else:
        raise SystemExit(f"The shift of {SHIFT} was not noticed within {MOST_DAYS} days.")
    check(day >= SHIFT, "nothing is retrained before the shift")
    late = (day - SHIFT).days
    now = loop.add(f"the day's rows: retraining is decided, {late} days after the first shifted one", day, known_at)
    loop.add("the first shifted rows: noticed", day, shifted_at)
    run = decision["run_id"]
    loop.until(lambda: run in loop.runs(TRAINING), "the training is triggered")
    loop.await_run(TRAINING, run)
    now = loop.add("decision: trained, gates passed, pushed", day, now)
    (release,) = loop.until(lambda: loop.runs(RELEASE), "the release is triggered")
    loop.await_run(RELEASE, release)
    loop.add("push: released by a canary on the running requests", day, now)
    loop.add("the day's rows: the new model serves", day, known_at)
    (promotion,) = loop.airflow.outputs(RELEASE, release, "finish")["promotion"]
    check(promotion["properties"]["took_over"] == 1, f"the canary promotes: {promotion['properties']['summary']}")
    check(loop.chain(day).outcome == SERVES, "the lineage tells that the version serves")
    return day


def bad_model(loop: Loop, traffic: Traffic, day: date) -> None:
    """A version that answers NaN is proposed, and the canary takes it back."""
    served, planted = plant(loop.home)
    before = traffic.counts["not finite"]
    begun = time.time()
    release = loop.run(RELEASE, {"version": str(planted)})
    loop.add("bad model proposed: the canary has taken it back", day, begun)
    (promotion,) = loop.airflow.outputs(RELEASE, release, "finish")["promotion"]
    check(promotion["properties"]["to_version"] == served, "the version of before serves")
    print(f"           {promotion['properties']['summary']}", flush=True)
    print(f"           {traffic.counts['not finite'] - before} requests were answered with NaN.", flush=True)


def broken_feed(loop: Loop, day: date) -> None:
    """A tenth of a column is -1: nothing is trained until the day is mended."""
    before = loop.runs(TRAINING)
    known_at = loop.know(day, shifted=True, broken=True)
    watched = loop.run(WATCH, {"interval": day.isoformat()})
    check(loop.decided(watched)["action"] == "fix_data", "the broken feed is a fault")
    check(loop.runs(TRAINING) == before, "a fault retrains nothing")
    now = loop.add("the day's rows: the watch wants the data mended", day, known_at)
    # As the watch would have: from the days since the shift alone.
    conf = {"interval": day.isoformat(), "window_days": (day - SHIFT).days, "release": "at_once"}
    training = loop.run(TRAINING, conf, expected="failed")
    states = {task.id: task.state for task in loop.airflow.tasks(TRAINING, training)}
    check(
        (states["clear_training"], states["train"]) == ("failed", "upstream_failed"), f"training is blocked: {states}"
    )
    loop.add("training triggered by hand: blocked", day, now)
    mended_at = loop.know(day, shifted=True)
    loop.airflow.clear(WATCH, watched)
    loop.await_run(WATCH, watched)
    check(loop.decided(watched)["action"] == "keep", "the mended day has no fault")
    now = loop.add("the day mended: the cleared watch knows of no fault", day, mended_at)
    loop.airflow.clear(TRAINING, training)
    loop.await_run(TRAINING, training)
    loop.add("the cleared training passes its gates", day, now)


def plant(home: Home) -> tuple[int, int]:
    """Puts a version that answers NaN beside the served one; gives the numbers of both."""
    import tensorflow as tf

    folder = home.models(TRAINING)
    served = max(int(version.name) for version in folder.iterdir() if version.name.isdecimal())
    model = tf.saved_model.load(str(folder / str(served)))
    answer = model.signatures["serving_default"]
    module = tf.Module()
    module.model = model
    wanted = answer.structured_input_signature[1]
    module.broken = tf.function(
        lambda **inputs: {name: value * float("nan") for name, value in answer(**inputs).items()}
    )
    hidden = folder / f".{served + 1}"
    tf.saved_model.save(module, str(hidden), {"serving_default": module.broken.get_concrete_function(**wanted)})
    hidden.rename(folder / str(served + 1))
    return served, served + 1


def check(holds: bool, what: str) -> None:
    """Ends the trial where something is not as it must be."""
    if not holds:
        raise SystemExit(f"It does not hold: {what}.")


def _days(first: date, end: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((end - first).days)]


def _instances(day: date, *, shifted: bool) -> list[dict[str, Any]]:
    return rows.rows_of(day, shifted=shifted).select(list(rows.SCHEMA.names)).to_pylist()


def main() -> None:
    """Prints a markdown table of the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=float, default=40.0, help="requests a second")
    parser.add_argument("--hold", action="store_true", help="keep the services at the end, to look at the pages")
    args = parser.parse_args()
    with own_services(DAGS, ALWAYS) as (home, airflow):
        print(f"{home.path}: {airflow.url}", flush=True)
        loop = Loop(home, airflow)
        first_model(loop)
        url = Settings.of_running(home).model_url
        with Traffic(url, SETTINGS.name, _instances(LIVE, shifted=False), args.requests) as traffic:
            noticed = shift(loop, traffic)
            bad_model(loop, traffic, noticed)
            after = noticed + timedelta(days=1)
            broken_feed(loop, after)
        print("", *in_lines(loop.chain(noticed)), sep="\n")
        for artifact in (*loop.chain(noticed).verdicts, *loop.chain(noticed).releases):
            print(f"  {artifact.type.name}: {artifact.properties.get('summary') or 'passed'}")
        print(f"\nRequests: {dict(traffic.counts)}")
        print("\n| step | day | seconds |\n|---|---|---:|")
        for step, day, seconds in loop.steps:
            print(f"| {step} | {day} | {seconds:.1f} |")
        while args.hold:
            time.sleep(60)


if __name__ == "__main__":
    main()
