"""label_quality: predictions joined with the labels that have come, and how good they were, day by day."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component

from airtight.files import write_text
from airtight.import_string import load
from airtight.interval import Interval
from airtight.parameters import check_choice
from components.artifacts import Dataset, LabelQuality, Predictions
from components.data import shards
from components.data.dataset import DatasetReader
from components.data.pieces import write_parquet
from components.data.spark import session
from components.reports import label_quality as report
from components.schema import ExampleSchema
from components.tasks import Task, task_of
from components.watch import estimates, late_labels, prediction_rows, quality_days
from components.watch.day_rows import DayRows
from components.watch.monthly_estimator import SAMPLE, Monthly
from components.watch.prediction_rows import AT, BESIDE, DAY, VERSION, Form
from components.watch.quality_days import RIPE, DayQuality, DaySettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

log = logging.getLogger(__name__)

ROWS, REPORT = "rows.parquet", "report.html"


@component
def label_quality(
    dataset: InputArtifact[Dataset],
    quality: OutputArtifact[LabelQuality],
    model_name: Parameter[str],
    schema: Parameter[str],
    labels: Parameter[str],
    predictions: InputArtifact[List[Predictions]] = None,  # noqa: UP006
    previous: InputArtifact[List[LabelQuality]] = None,  # noqa: UP006
    log_root: Parameter[str] = "",
    join: Parameter[str] = "",
    days: Parameter[int] = 30,
    unripe_below: Parameter[float] = DaySettings.unripe_below,
    ripe_from: Parameter[float] = DaySettings.ripe_from,
    close_after_days: Parameter[int] = DaySettings.close_after_days,
    gap_hours: Parameter[float] = DaySettings.gap_hours,
    calibration: Parameter[str] = estimates.ISOTONIC,
    calibration_days: Parameter[int] = 60,
) -> None:
    """Judges each of the last days by the labels that were known when the interval ended.

    A day is unripe, so much ripe, or ripe, by the share of its predictions that are settled. A day whose predictions
    or labels changed since the run before is made anew, and counted as reopened where it was ripe; the others are
    carried on. Figures of several labels go by the labels' names; a row has a label when all of them are known. Spark
    joins and sorts, and this process reads a few thousand rows at a time; see `day_rows` for what is kept of a row. A
    day without rows, labels that contradict each other or that came before the prediction, and labels without a
    prediction are counted, and are no fault. A day whose predictions are no longer there stays as it was known.

    Args:
      dataset: The tables with the labels; the instant by which its labels are known is the one that counts here.
      quality: Gets `days.jsonl`, `report.html`, and of each day `rows.parquet` and `sample.parquet`.
      model_name: The model.
      schema: Names the ExampleSchema.
      labels: Names a function (table) -> DataFrame of labels (`late_labels.labels_of`), such as the transform.
      predictions: Batch predictions of all runs. With `log_root` those of the former champion count, beside the log's.
      previous: This step's results of all runs; the last one of before is gone on from.
      log_root: Folder of the prediction log; empty judges the batch predictions.
      join: Columns that name a row in both, separated by commas; empty is the time and the keys of the schema, and
        for the log its first key.
      days: So many local days up to the interval's end are looked at.
      unripe_below: See `DaySettings`.
      ripe_from: See `DaySettings`.
      close_after_days: See `DaySettings`.
      gap_hours: See `DaySettings`.
      calibration: isotonic, platt or none: how probabilities are calibrated for estimates without labels.
      calibration_days: They are fitted on the ripe ones of so many last days, once a month.

    Raises:
      TerminalError: Settings that cannot be used, labels that are none of the task, or files that cannot be read.
    """
    check_choice("calibration", calibration, estimates.CALIBRATIONS)
    reader = DatasetReader.open(dataset.uri)
    declared: ExampleSchema = load(schema)
    default = [declared.keys[0]] if log_root and declared.keys else [*filter(None, [declared.time]), *declared.keys]
    columns = tuple(name.strip() for name in join.split(",") if name.strip()) or tuple(dict.fromkeys(default))
    form = Form(declared, columns, reader.zone)
    settings = DaySettings(unripe_below, ripe_from, close_after_days, gap_hours)
    before = _before(previous or [], reader.labels_known_by)
    known = quality_days.read(Path(before.uri)) if before else {}
    folder, task = Path(quality.uri), task_of(declared)
    wanted = _days(reader, days)
    monthly = Monthly.of(
        task, form, Path(before.uri) if before else None, known, wanted[-1], calibration, calibration_days
    )
    judged = _Judged(task, form, settings, reader.labels_known_by, monthly, known)
    scratch = folder / ".scratch"
    scratch.mkdir(parents=True)
    try:
        with session("label_quality") as spark, reader.unchanged():
            made = load(labels)(lambda table: reader.spark_frame(spark, table))
            newest = late_labels.labels_of(made, form, labels, reader.labels_known_by)
            rows, refused = _predicted(spark, predictions or [], log_root, model_name, wanted, form, scratch)
            without = late_labels.unpredicted(rows, newest, form, wanted)
            counts, digests, parts = _joined(rows, newest, form, wanted, known, scratch)
        first = min((*digests, *known, reader.interval.start.astimezone(ZoneInfo(reader.zone)).date().isoformat()))
        stream = shards.RowStream(shards.read_parts(parts))
        for day in wanted:
            counted = {"unanswered": refused[day], "unpredicted": without.get(day, 0), "digest": digests.get(day, "")}
            if day in counts:
                judged.read(day, stream.take(counts[day]), folder / f"date={day}", counted)
            elif day >= first:
                judged.keep(day, counted)
        judged.carry_on()
        monthly.write(folder, judged.days)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    quality_days.write(folder / quality_days.FILE, judged.days.values())
    quality.interval_start, quality.interval_end = reader.interval.start.isoformat(), reader.interval.end.isoformat()
    quality.model, quality.known_by = model_name, reader.labels_known_by.isoformat()
    quality.days = len(judged.days)
    quality.ripe = sum(day.state == RIPE for day in judged.days.values())
    quality.reopened = sum(
        day.reopened > (known[name].reopened if name in known else 0) for name, day in judged.days.items()
    )
    quality.summary = report.summary(task, list(judged.days.values()))
    write_text(folder / REPORT, report.page(model_name, task, list(judged.days.values()), quality.known_by))
    log.info("%s The report lies in %s.", quality.summary, folder / REPORT)


def _before(previous: Sequence[LabelQuality], known_by: datetime) -> LabelQuality | None:
    """The last result of before; of several of one instant the newest."""
    earlier = [one for one in previous if datetime.fromisoformat(one.known_by) < known_by]
    return max(earlier, key=lambda one: (datetime.fromisoformat(one.known_by), one.id), default=None)


def _days(reader: DatasetReader, count: int) -> list[str]:
    """The last local days up to the interval's end that the data set has whole."""
    zone = ZoneInfo(reader.zone)
    last = (reader.interval.end - timedelta(microseconds=1)).astimezone(zone).date()
    start = reader.history_start.astimezone(zone)
    first = start.date() + timedelta(days=int(bool(start.time().isoformat() != "00:00:00")))
    days = [last - timedelta(days=number) for number in range(max(1, count))]
    return [day.isoformat() for day in sorted(days) if day >= first] or [last.isoformat()]


def _predicted(
    spark: "SparkSession",
    batches: Sequence[Predictions],
    log_root: str,
    model: str,
    days: Sequence[str],
    form: Form,
    scratch: Path,
) -> tuple["DataFrame | None", Counter[str]]:
    """The predictions of some days, and by day how many requests had no answer."""
    mine = [batch for batch in batches if batch.model == model]
    if not log_root:
        return prediction_rows.of_batch(spark, mine, days, form), Counter()
    zone = ZoneInfo(form.zone)
    start, end = (datetime.fromisoformat(day).replace(tzinfo=zone) for day in (days[0], days[-1]))
    interval = Interval(start, (end + timedelta(days=1)).replace(tzinfo=zone))
    rows, refused = prediction_rows.of_log(spark, Path(log_root), model, interval, form, scratch)
    if mine and not form.schema.time:
        log.warning("Batch predictions are not compared with the log's: without a time in the schema they have no day.")
    elif rows is not None and mine:
        scored = prediction_rows.of_batch(spark, mine, days, form)
        rows = rows if scored is None else prediction_rows.beside_log(rows, scored, form)
    return rows, refused


def _joined(
    rows: "DataFrame | None",
    newest: "DataFrame",
    form: Form,
    days: list[str],
    known: dict[str, DayQuality],
    scratch: Path,
) -> tuple[dict[str, int], dict[str, str], list[Path]]:
    """Rows of the days that changed, digests of all days, and files of the former in the order of days."""
    from pyspark.sql import functions as F

    if rows is None:
        return {}, {}, []
    joined = late_labels.joined(rows.where(F.col(DAY).isin(days)), newest, form)
    # Written before it is looked at twice: Spark would join it twice.
    joined.write.parquet(str(scratch / "joined"))
    joined = joined.sparkSession.read.schema(joined.schema).parquet(str(scratch / "joined"))
    of_days = late_labels.digests(joined, form)
    digests = {day: digest for day, (_, digest) in of_days.items()}
    counts = {day: count for day, (count, digest) in of_days.items() if day not in known or known[day].digest != digest}
    if not counts:
        return {}, digests, []
    changed = joined.where(F.col(DAY).isin(sorted(counts)))
    parts = shards.sorted_parts(changed, [DAY, AT, *form.join, VERSION, BESIDE], scratch / "sorted")
    return counts, digests, parts


@dataclass
class _Judged:
    """The days as they are judged, one after the other.

    Args:
      task: Of the labels.
      form: Of the rows.
      settings: When a day is ripe.
      known_by: Labels of before count.
      monthly: What estimates the quality of new days.
      known: The days as the run before had them.
    """

    task: Task
    form: Form
    settings: DaySettings
    known_by: datetime
    monthly: Monthly
    known: dict[str, DayQuality]

    def __post_init__(self) -> None:
        self.days: dict[str, DayQuality] = {}

    def read(self, day: str, tables: Iterable[pa.Table], folder: Path, counted: dict[str, Any]) -> None:
        """Judges a day by its rows, and keeps them."""
        rows = DayRows(day, self.task, self.form)
        path = folder / ROWS

        def seen() -> Iterator[pa.Table]:
            for table in tables:
                table = table.replace_schema_metadata(None)  # noqa: PLW2901
                rows.add(table)
                yield table

        passing = seen()
        first = next(passing)
        write_parquet(path, _chained(first, passing), first.schema)
        self._sample(path, folder / SAMPLE)
        counts: dict[str, Any] = {name: rows.counts[name] for name in ("rows", "beside", "corrected", *_COUNTED)}
        measured = rows.figures()
        pairs: list[Mapping[str, Any]] = [asdict(pair) for pair in rows.pairs()]
        quality = DayQuality(
            day, self.known_by.isoformat(), **counts, **measured, **counted, pairs=pairs, gap_hours=rows.gap_hours
        )
        quality = replace(quality, estimate=self.monthly.estimate(rows))
        self._settle(quality)

    def keep(self, day: str, counted: dict[str, Any]) -> None:
        """Carries a day on whose rows are as they were, or are no longer there; a day without rows is new."""
        quality = self.known.get(day, DayQuality(day, ""))
        if quality.rows and not counted["digest"]:
            self._settle(quality)
            kept = self.days[day]
            self.days[day] = replace(kept, notes=[*kept.notes, f"{_NOT_THERE} {quality.known_by} counts."])
        else:
            self._settle(replace(quality, known_by=self.known_by.isoformat(), **counted))

    def carry_on(self) -> None:
        """Adds the days of before that are no longer looked at, as they were."""
        self.days = {**{day: quality for day, quality in self.known.items() if day not in self.days}, **self.days}

    def _settle(self, quality: DayQuality) -> None:
        local = self.known_by.astimezone(ZoneInfo(self.form.zone)).date()
        age = (local - date.fromisoformat(quality.day)).days
        self.days[quality.day] = quality_days.settled_state(quality, age, self.settings, self.known.get(quality.day))

    def _sample(self, path: Path, sample: Path) -> None:
        """Keeps evenly many of the labelled answers for estimators."""
        judged = (pc.field(late_labels.STATUS) == late_labels.LABELLED) & ~pc.field(BESIDE)
        columns = [*self.form.outputs, *self.form.schema.labels, VERSION, *(f"slice_{n}" for n in self.form.slices)]
        total = sum(table.filter(judged).num_rows for table in shards.read_parts([path]))
        step, passed, kept = max(1, -(-total // self.monthly.sample_rows)), 0, []
        for table in shards.read_parts([path]):
            rows = table.filter(judged).select(columns)
            kept.append(rows.take(pa.array(range(-passed % step, rows.num_rows, step), pa.int64())))
            passed += rows.num_rows
        if total:
            pq.write_table(pa.concat_tables(kept).combine_chunks(), sample, compression="zstd", store_schema=False)


_COUNTED = late_labels.STATUSES
_NOT_THERE = "Its predictions are no longer there: no label after"


def _chained(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest
