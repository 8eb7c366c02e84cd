"""A version on trial: the task that has a release begin, and the one that watches what the router counts of it."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DagRunTriggerException

from airtight import releases, router
from airtight.errors import AirtightError, TerminalError
from airtight.home import Home
from airtight.router import Counts
from plugins.tfx_airflow.polling import Looking

WATCHED = """
{%- set begun = ti.xcom_pull('start')['outputs']['release'][0]['properties'].get('release', '') -%}
{%- set seen = ti.xcom_pull('watch') or {'release': begun, 'reason': 'the task watch was marked as done by hand'} -%}
{{ seen['reason'] if seen.get('release') == begun else '' }}"""
"""Template that tells `judge` why the watching has ended, of tasks named `start` and `watch`. Where `judge` is cleared,
Airflow runs its setup `start` again, but not `watch`: what that saw was another release. Then it is empty, and `judge`
watches itself."""


class StartRelease(BaseOperator):
    """Triggers the DAG of releases for the version that a push left to it; skipped where the push left none.

    Not a TriggerDagRunOperator: importing that takes longer than a DAG file may, and all it does is raise this too.

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
          DagRunTriggerException: By which Airflow is told to trigger it.
          AirflowSkipException: Nothing was left to a release. So is an attempt after the one that triggered it.
        """
        (pushed,) = context["ti"].xcom_pull(task_ids=self.push)["outputs"]["pushed"]
        told = pushed["properties"]
        if not told.get("awaits_release"):
            raise AirflowSkipException(f"Nothing is left to a release. {told.get('reason', '')}")
        run = context["dag_run"]
        raise DagRunTriggerException(
            trigger_dag_id=self.trigger_dag_id,
            # An attempt after one that was killed meets that one's run; a task that was cleared triggers another.
            dag_run_id=f"{run.dag_id}__{run.run_id}__{told['version']}__{run.clear_number or 0}",
            conf={"version": str(told["version"]), "asked_by": "push"},
            reset_dag_run=False,
            skip_when_already_exists=True,
            wait_for_completion=False,
            allowed_states=["success"],
            failed_states=["failed"],
            poke_interval=60,
            deferrable=False,
        )


class AwaitRelease(BaseOperator):
    """Waits until a release was watched for long enough; no worker is held meanwhile.

    That is when its minutes are over and both sides saw enough requests, at the latest after its longest time, and at
    once when the candidate clearly fails more requests than it may.

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
            told = release["properties"]
            self.log.info("%s", told["summary"])
            if not told.get("release"):
                return {"release": "", "reason": told["summary"], "requests": {}}
            self.defer(
                trigger=ReleaseWatched(
                    model=told["model"],
                    release=told["release"],
                    since=told["since"],
                    minutes=told["minutes"],
                    longest_minutes=told["longest_minutes"],
                    min_requests=told["min_requests"],
                    max_more_failed=told["max_more_failed"],
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


class ReleaseWatched(Looking):
    """Fires when a release was watched for long enough, or is no longer under way.

    Args:
      model: The model.
      release: The release's id.
      since: When it began, ISO 8601.
      minutes: It is watched so long,
      longest_minutes: and where requests are few at most so long.
      min_requests: Each side should see so many.
      max_more_failed: The candidate's share of failed requests may be higher by so much.
    """

    def __init__(
        self,
        *,
        model: str,
        release: str,
        since: str,
        minutes: float,
        longest_minutes: float,
        min_requests: int,
        max_more_failed: float,
    ) -> None:
        super().__init__(
            model=model,
            release=release,
            since=since,
            minutes=minutes,
            longest_minutes=longest_minutes,
            min_requests=min_requests,
            max_more_failed=max_more_failed,
        )

    def look(self) -> dict[str, Any] | None:
        """What the event tells; None while there is none."""
        told = self.told
        try:
            self._check_under_way()
            counts = self._counts()
            reason = router.over(
                counts,
                since=told["since"],
                minutes=told["minutes"],
                longest_minutes=told["longest_minutes"],
                requests=told["min_requests"],
                limit=told["max_more_failed"],
            )
        except AirtightError as error:
            return {"error": error.to_json()}
        if not reason:
            return None
        seen = {"stable": counts.stable.requests, "candidate": counts.candidate.requests} if counts else {}
        return {"release": told["release"], "reason": reason, "requests": seen}

    def _check_under_way(self) -> None:
        """The file has the last word: a router that has just started follows nothing yet."""
        release = releases.read(Home.current().models_root).get(self.told["model"])
        if release is None or release.id != self.told["release"]:
            raise TerminalError(
                f"The release of {self.told['model']} is no longer under way.",
                expected=f"the release {self.told['release']} in {releases.FILE}",
                received="none" if release is None else f"the release {release.id}",
                remedy="A promotion or rollback has ended it. Start another release if it is still wanted.",
            )

    def _counts(self) -> Counts | None:
        """What the router has counted; None while it is away or does not follow the release yet."""
        try:
            counts = Counts.of(router.status(router.address()), self.told["model"])
        except AirtightError as error:
            if not error.transient:
                raise
            return None
        return counts if counts is not None and counts.id == self.told["release"] else None
