"""A version on trial: the task that has a release begin, and the one that watches what the router counts of it."""

from __future__ import annotations

import hashlib
import time
from typing import Any, ClassVar

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airtight.errors import AirtightError, TerminalError
from airtight.home import Home
from airtight.rollout import arm_metrics, rules, state
from airtight.rollout.arm_metrics import Counts
from plugins.tfx_airflow.airflow_compat import RUN_ID_LENGTH, clear_number, trigger_once
from plugins.tfx_airflow.polling import PollingTrigger

WATCHED = """
{%- set begun = ti.xcom_pull('start')['outputs']['release'][0]['properties'].get('release', '') -%}
{%- set seen = ti.xcom_pull('watch') or {'release': begun, 'reason': 'the task watch was marked as done by hand'} -%}
{{ seen['reason'] if seen.get('release') == begun else '' }}"""
"""Template that tells `judge` why the watching has ended, of tasks named `start` and `watch`. Where `judge` is cleared,
Airflow runs its setup `start` again, but not `watch`: what that saw was another release. Then it is empty, and `judge`
watches itself."""


class StartRelease(BaseOperator):
    """Triggers the DAG of releases for the version that a push left to it; skipped where the push left none.

    Args:
      trigger_dag_id: The DAG of releases.
      push: Id of the task that pushes.
      **kwargs: As for every operator.
    """

    template_fields = ("trigger_dag_id",)

    def __init__(self, *, trigger_dag_id: str, push: str = "push", **kwargs: Any) -> None:
        kwargs.setdefault("doc_md", f"Has the version released that `{push}` left to a release; skipped else.")
        super().__init__(**kwargs)
        self.trigger_dag_id = trigger_dag_id
        self.push = push

    def execute(self, context: Context) -> None:
        """Triggers it, or not.

        Raises:
          DagRunTriggerException: Airflow triggers the DAG on receiving it.
          AirflowSkipException: Nothing was left to a release. So is an attempt after the one that triggered it.
        """
        (pushed,) = context["ti"].xcom_pull(task_ids=self.push)["outputs"]["pushed"]
        properties = pushed["properties"]
        if not properties.get("awaits_release"):
            raise AirflowSkipException(f"Nothing is left to a release. {properties.get('reason', '')}")
        run = context["dag_run"]
        # An attempt after one that was killed meets that one's run; a task that was cleared triggers another.
        run_id = _short(f"{run.dag_id}__{run.run_id}__{properties['version']}__{clear_number(run)}")
        conf = {"version": str(properties["version"]), "asked_by": "push"}
        raise trigger_once(self.trigger_dag_id, run_id, conf)


def _short(run_id: str) -> str:
    """Returns the id, or, if it is longer than Airflow takes, its beginning with a digest of the whole."""
    if len(run_id) <= RUN_ID_LENGTH:
        return run_id
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:16]
    return f"{run_id[: RUN_ID_LENGTH - len(digest) - 2]}__{digest}"


class AwaitRelease(BaseOperator):
    """Waits until a release was watched for long enough; no worker is held meanwhile.

    That is when every rule holds and its minutes are over, at once when one says that the candidate is worse than it
    may be, and at the latest after its longest time. The log tells once a minute how the release stands.

    Args:
      start: Id of the task that began the release.
      **kwargs: As for every operator.
    """

    template_fields = ()
    ui_color = "#ede7f6"

    def __init__(self, *, start: str, **kwargs: Any) -> None:
        kwargs.setdefault("doc_md", "Waits until enough live requests were answered by both versions.")
        super().__init__(**kwargs)
        self.start = start

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Begins to wait; called again with what the trigger saw.

        Returns:
          The release's id, why the watching ended, and how many requests each side had seen, for XCom; at once where
          no release was begun.

        Raises:
          TaskDeferred: It was not watched yet.
          AirflowFailException: Somebody else ended the release, or its settings are none.
        """
        if event is None:
            (release,) = context["ti"].xcom_pull(task_ids=self.start)["outputs"]["release"]
            properties = release["properties"]
            self.log.info("%s", properties["summary"])
            if not properties.get("release"):
                return {"release": "", "reason": properties["summary"], "requests": {}}
            self.defer(
                trigger=ReleaseWatched(
                    model=properties["model"],
                    release=properties["release"],
                    since=properties["since"],
                    minutes=properties["minutes"],
                    longest_minutes=properties["longest_minutes"],
                    margins=properties["margins"],
                ),
                method_name="execute",
            )
        assert event is not None
        if error := event.get("error"):
            fault = AirtightError.from_json(error)
            fault.step = fault.step or self.task_id
            raise AirflowFailException(str(fault)) from fault
        self.log.info("The watching has ended: %s.", event["reason"])
        return event


class ReleaseWatched(PollingTrigger):
    """Fires when a release was watched for long enough, or is no longer under way.

    Args:
      model: The model.
      release: The release's id.
      since: When it began, ISO 8601.
      minutes: Minimum time to watch, in minutes.
      longest_minutes: Maximum time to watch when traffic is low, in minutes.
      margins: By how much the candidate may be worse (`airtight.rollout.rules.Margins`), JSON.
    """

    log_s: ClassVar[float] = 60.0
    """Seconds between two lines in the log."""

    def __init__(
        self,
        *,
        model: str,
        release: str,
        since: str,
        minutes: float,
        longest_minutes: float,
        margins: str,
    ) -> None:
        super().__init__(
            model=model,
            release=release,
            since=since,
            minutes=minutes,
            longest_minutes=longest_minutes,
            margins=margins,
        )
        self._logged = -self.log_s

    def poll(self) -> dict[str, Any] | None:
        """Returns why the watching ends and what each side answered, or None while it goes on."""
        arguments = self.arguments
        try:
            self._check_under_way()
            counts = self._counts()
            margins = rules.Margins.of(arguments["margins"])
            reason = rules.over(
                counts,
                since=arguments["since"],
                minutes=arguments["minutes"],
                longest_minutes=arguments["longest_minutes"],
                margins=margins,
            )
        except AirtightError as error:
            return {"error": error.to_json()}
        if not reason:
            if counts is not None and time.monotonic() - self._logged >= self.log_s:
                self._logged = time.monotonic()
                self.log.info("%s.", rules.decide(counts, margins).reason)
            return None
        requests = {"stable": counts.stable.requests, "candidate": counts.candidate.requests} if counts else {}
        return {"release": arguments["release"], "reason": reason, "requests": requests}

    def _check_under_way(self) -> None:
        """The file has the last word: a router that has just started follows nothing yet."""
        release = state.read(Home.current().models_root).get(self.arguments["model"])
        if release is None or release.id != self.arguments["release"]:
            raise TerminalError(
                f"The release of {self.arguments['model']} is no longer under way.",
                expected=f"the release {self.arguments['release']} in {state.FILE}",
                received="none" if release is None else f"the release {release.id}",
                remedy="A promotion or rollback has ended it. Start another release if it is still wanted.",
            )

    def _counts(self) -> Counts | None:
        """What the router has counted; None while it is away or does not follow the release yet."""
        try:
            counts = Counts.of(arm_metrics.status(arm_metrics.address()), self.arguments["model"])
        except AirtightError as error:
            if not error.transient:
                raise
            return None
        return counts if counts is not None and counts.id == self.arguments["release"] else None
