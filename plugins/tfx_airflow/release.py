"""A version on trial: the task that has a release begin, and the one that watches what the router counts of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airtight import releases, router
from airtight.errors import AirtightError, TerminalError
from airtight.home import Home
from airtight.router import Counts

POLL_S = 1.0


class StartRelease(TriggerDagRunOperator):
    """Triggers the DAG of releases for the version that a push left to it; skipped where the push left none.

    Args:
      push: Id of the task that pushes.
      **kwargs: As for TriggerDagRunOperator.
    """

    template_fields = ("trigger_dag_id",)

    def __init__(self, *, push: str = "push", **kwargs: Any) -> None:
        kwargs.setdefault("doc_md", f"Has the version released that `{push}` left to a release; skipped else.")
        kwargs.setdefault("logical_date", None)
        super().__init__(**kwargs)
        self.push = push

    def execute(self, context: Context) -> None:
        """Triggers it, or not.

        Raises:
          AirflowSkipException: Nothing was left to a release.
        """
        (pushed,) = context["ti"].xcom_pull(task_ids=self.push)["outputs"]["pushed"]
        told = pushed["properties"]
        if not told.get("awaits_release"):
            raise AirflowSkipException(f"Nothing is left to a release. {told.get('reason', '')}")
        self.conf = {"version": str(told["version"]), "asked_by": "push"}
        super().execute(context)


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
          Why the watching ended, and how many requests each side had seen, for XCom.

        Raises:
          TaskDeferred: It was not watched yet.
          AirflowFailException: Somebody else ended the release, or its settings are none.
        """
        if event is None:
            (release,) = context["ti"].xcom_pull(task_ids=self.start)["outputs"]["release"]
            told = release["properties"]
            self.log.info("%s", told["summary"])
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


class ReleaseWatched(BaseTrigger):
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
        super().__init__()
        self.told: dict[str, Any] = {
            "model": model,
            "release": release,
            "since": since,
            "minutes": minutes,
            "longest_minutes": longest_minutes,
            "min_requests": min_requests,
            "max_more_failed": max_more_failed,
        }

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes it again; the release's time goes on from its beginning."""
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", dict(self.told)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Looks every `POLL_S`; the event has the reason and the requests, or a fault."""
        look = sync_to_async(self.look, thread_sensitive=False)
        while True:
            seen = await look()
            if seen is not None:
                yield TriggerEvent(seen)
                return
            await asyncio.sleep(POLL_S)

    def look(self) -> dict[str, Any] | None:
        """What the event tells; None while there is none."""
        told = self.told
        try:
            self._check_under_way()
            counts = self._counts()
            reason = (
                self._too_long()
                if counts is None
                else router.over(
                    counts,
                    since=told["since"],
                    minutes=told["minutes"],
                    longest_minutes=told["longest_minutes"],
                    requests=told["min_requests"],
                    limit=told["max_more_failed"],
                )
            )
        except AirtightError as error:
            return {"error": error.to_json()}
        if not reason:
            return None
        seen = {"stable": counts.stable.requests, "candidate": counts.candidate.requests} if counts else {}
        return {"reason": reason, "requests": seen}

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

    def _too_long(self) -> str:
        """A router that is away for good does not keep the release for ever."""
        elapsed = (datetime.now(UTC) - datetime.fromisoformat(self.told["since"])).total_seconds() / 60
        longest = max(self.told["minutes"], self.told["longest_minutes"])
        return f"the longest time of {longest:g} minutes is over, and the router is away" if elapsed >= longest else ""
