"""The features of a flight by a slow and obvious reading of their definition: a walk through the order of time.

It shares nothing with the Spark code but the declarations of `features.py` and the rules of `clock.py`.
"""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np

from pipelines.flight_delays import clock, features
from pipelines.flight_delays.features import Overdue, Window

Row = dict[str, Any]
_MINUTE = datetime.timedelta(minutes=1)


class Walk:
    """What an observer in New York has seen so far.

    Args:
      flights: Rows of the table; the plan of all of them is known from the start.
      weather: Rows of the table.
      planes: Rows of the table.
    """

    def __init__(self, flights: list[Row], weather: list[Row], planes: list[Row]) -> None:
        self.plan = sorted(flights, key=lambda flight: (flight["scheduled_departure"], flight["flight_id"]))
        self.weather = {(row["origin"], row["observed_at"]): row for row in weather}
        self.planes = {row["tailnum"]: row for row in planes}
        # What is known so far, the newest last.
        self.seen: dict[str, list[tuple[datetime.datetime, Row]]] = {"departures": [], "arrivals": []}
        self.left: set[str] = set()

    def features_of(self, flight_ids: set[str]) -> dict[str, Row]:
        """Walks through the time of all flights, and answers for those flight_ids, at their cut-offs.

        Returns:
          Features by flight_id: str, or a Python number, NaN when missing.
        """
        happened: list[tuple[datetime.datetime, int, float, str, Row]] = []
        for flight in self.plan:
            if flight["flight_id"] in flight_ids:
                # What happens at the very instant of the cut-off is not known yet: the question comes first.
                happened.append((clock.cutoff(flight["scheduled_departure"]), 0, 0.0, "question", flight))
            for stream in features.STREAMS:
                if flight[stream.delay] is not None:
                    happened.append((flight[stream.known_at], 1, flight[stream.delay], stream.name, flight))
        answers = {}
        for now, _, _, what, flight in sorted(happened, key=lambda event: event[:4]):
            if what == "question":
                answers[flight["flight_id"]] = self._answer(flight, now)
                continue
            self.seen[what].append((now, flight))
            if what == "departures":
                self.left.add(flight["flight_id"])
        return answers

    def _answer(self, flight: Row, now: datetime.datetime) -> Row:
        answer = {**self._schedule(flight), **self._plane(flight), **self._weather(flight), **self._tail(flight, now)}
        for window in features.WINDOWS:
            answer.update(self._window(window, flight, now))
        for overdue in features.OVERDUE:
            answer.update(self._overdue(overdue, flight, now))
        return answer

    def _schedule(self, flight: Row) -> Row:
        hour = flight["scheduled_departure"].replace(minute=0)
        beside = [
            other
            for other in self.plan
            if other["origin"] == flight["origin"] and other["scheduled_departure"].replace(minute=0) == hour
        ]
        names = ("carrier", "origin", "dest", "local_minute", "scheduled_minutes", "distance")
        weekday = flight["local_date"].strftime("%a")
        return {**{n: flight[n] for n in names}, "weekday": weekday, "scheduled_departures_origin": len(beside)}

    def _plane(self, flight: Row) -> Row:
        plane = self.planes.get(flight["tailnum"], {})
        built = plane.get("year")
        return {
            "plane_manufacturer": plane.get("manufacturer") or "",
            "plane_model": plane.get("model") or "",
            "plane_age": math.nan if built is None else flight["local_date"].year - built,
            "plane_seats": plane.get("seats", math.nan),
            "plane_engines": plane.get("engines", math.nan),
        }

    def _weather(self, flight: Row) -> Row:
        observed = self.weather.get((flight["origin"], clock.weather_hour(flight["scheduled_departure"])), {})
        values = {name: observed.get(name) for name in features.WEATHER}
        for name in ("wind_speed", "wind_gust"):
            if values[name] is not None and values[name] > features.WIND_SPEED_LIMIT_MPH:
                values[name] = None
        return {name: math.nan if value is None else value for name, value in values.items()}

    def _window(self, window: Window, flight: Row, now: datetime.datetime) -> Row:
        delays = []
        for at, event in reversed(self.seen[window.stream.name]):
            if at < now - datetime.timedelta(hours=window.hours):
                break
            if all(event[key] == flight[key] for key in window.by):
                delays.append(event[window.stream.delay])
        late = sum(delay > features.LATE_MINUTES for delay in delays)
        values = {
            "count": len(delays),
            "late_share": late / len(delays) if delays else math.nan,
            "mean_delay": sum(delays) / len(delays) if delays else math.nan,
        }
        return {window.feature(measure): values[measure] for measure in window.measures}

    def _overdue(self, overdue: Overdue, flight: Row, now: datetime.datetime) -> Row:
        past = [
            (now - other["scheduled_departure"]) / _MINUTE
            for other in self.plan
            if other["flight_id"] not in self.left
            and now - Overdue.UNTIL_MINUTES * _MINUTE <= other["scheduled_departure"]
            and other["scheduled_departure"] < now - Overdue.AFTER_MINUTES * _MINUTE
            and all(other[key] == flight[key] for key in overdue.by)
        ]
        return {overdue.count: len(past), overdue.mean: sum(past) / len(past) if past else math.nan}

    def _tail(self, flight: Row, now: datetime.datetime) -> Row:
        names = ("departure_delay", "departure_age", "arrival_delay", "arrival_age", "previous_delay", "slack")
        answer = {f"tail_{name}": math.nan for name in names}
        tail = flight["tailnum"]
        if tail is None:
            return answer
        for stream, name in ((features.DEPARTURES, "departure"), (features.ARRIVALS, "arrival")):
            of_tail = [(at, event) for at, event in self.seen[stream.name] if event["tailnum"] == tail]
            if of_tail and now - of_tail[-1][0] <= features.TAIL_MEMORY_HOURS * 60 * _MINUTE:
                answer[f"tail_{name}_delay"] = of_tail[-1][1][stream.delay]
                answer[f"tail_{name}_age"] = (now - of_tail[-1][0]) / _MINUTE
        return answer | self._rotation(flight, now)

    def _rotation(self, flight: Row, now: datetime.datetime) -> Row:
        order = (flight["scheduled_departure"], flight["flight_id"])
        earlier = [
            other
            for other in self.plan
            if other["tailnum"] == flight["tailnum"] and (other["scheduled_departure"], other["flight_id"]) < order
        ]
        if not earlier or now - earlier[-1]["scheduled_departure"] > features.TAIL_MEMORY_HOURS * 60 * _MINUTE:
            return {}
        previous = earlier[-1]
        if previous["arrived_at"] is not None and previous["arrived_at"] < now:
            delay = previous["arrived_at"] - previous["scheduled_arrival"]
        elif previous["departed_at"] is not None and previous["departed_at"] < now:
            delay = previous["departed_at"] - previous["scheduled_departure"]
        else:
            delay = max(now - previous["scheduled_departure"], 0 * _MINUTE)
        away = flight["scheduled_departure"] - (previous["scheduled_arrival"] + delay)
        return {
            "tail_previous_delay": delay / _MINUTE,
            "tail_slack": away / _MINUTE - previous["scheduled_minutes"],
        }


def as_float32(value: float | None) -> float:
    """A number as the examples keep it: rounded to float32, NaN when missing."""
    return math.nan if value is None else float(np.float32(value))
