"""Quality of the served model beside LightGBM, logistic regression and simpler baselines, on the very same rows.

    python -m benchmarks.quality 2013-06 2013-09 2013-12
    python -m benchmarks.quality 2013-06 --examples FOLDER --json quality.json
    python -m benchmarks.quality --seeds 0 1 2 3 --models "LightGBM, refit" "Airtight, refit"

Each month is judged by models of everything before it. Examples are made by the pipeline's own functions from the lake
(`python -m pipelines.flight_delays.lake` builds it), or read from FOLDER/<month>, an `Examples` artifact each. Ours is
trained by the component `train` and answers through its SavedModel's serving signature; it holds trees by LightGBM
beside its network, while the LightGBM in the table stands alone, with trees of any depth and categories as they are.
Every model gets the same features, and the same two chances: fitted on `train` and stopped on `validation`, and fitted
again on both, which is what the pipeline does unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer
from tfx.types import standard_artifacts

from airtight.interval import Interval
from components.artifacts import Dataset, ValidationReport
from components.data import examples as reading
from components.ingest import ingest
from components.measures import scores
from components.modelling import saved_model
from components.train import train
from components.transform import transform
from components.validate import validate
from pipelines.flight_delays import clock
from pipelines.flight_delays.features import SCHEMA
from pipelines.flight_delays.settings import SETTINGS

SINGLE = "departures_late_share_origin_1h"
"""The baseline of one feature: the share of the origin's last hour that was late."""
AIRCRAFT = tuple(name for name in SCHEMA.names if name.startswith(("plane_", "tail_")))
"""The features that assume the aircraft which really flew."""
HERE = "pipelines.flight_delays"
NUMBERS = ("roc_auc", "pr_auc", "log_loss", "calibration", "seconds")
LIGHTGBM = {
    "objective": "binary",
    "learning_rate": 0.04,
    "num_leaves": 63,
    "min_child_samples": 100,
    "feature_fraction": 0.6,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5,
    "cat_smooth": 50,
    "verbose": -1,
}
"""Tuned for this data in the research that the project starts from."""


@dataclass(frozen=True)
class Split:
    """Rows of one split."""

    features: pd.DataFrame
    labels: np.ndarray


@dataclass(frozen=True)
class Month:
    """One month's examples."""

    name: str
    artifact: standard_artifacts.Examples
    train: Split
    validation: Split
    test: Split

    @property
    def history(self) -> Split:
        """Train and validation rows together."""
        both = pd.concat([self.train.features, self.validation.features], ignore_index=True)
        return Split(_typed(both), np.concatenate([self.train.labels, self.validation.labels]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("months", nargs="*", default=["2013-06", "2013-09", "2013-12"])
    parser.add_argument("--examples", type=Path, help="folder of one Examples artifact for each month")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of LightGBM and Airtight; means stand below")
    parser.add_argument("--models", nargs="*", default=list(WAYS), choices=list(WAYS), help="only these")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("components.modelling.fitting").setLevel(logging.INFO)
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.months:
            folder = args.examples / name if args.examples else make_examples(name, Path(scratch) / name)
            month = read_month(name, folder)
            for model, seed in ((model, seed) for model in args.models for seed in args.seeds):
                started = time.monotonic()
                probability = WAYS[model](month, Path(scratch) / f"model-{name}", seed)
                score = {**judged(month.test.labels, probability), "seconds": time.monotonic() - started}
                figures.append({"month": name, "model": model, "seed": seed, **score})
                print(row(figures[-1]), flush=True)
    print()
    print("\n".join(table(figures)))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


def make_examples(name: str, folder: Path) -> Path:
    """Runs ingest, validate and transform of one month; answers the folder of the examples."""
    ingest_month(name, folder)
    validate_month(name, folder)
    transform_month(name, folder)
    return folder / "examples"


def ingest_month(name: str, folder: Path) -> None:
    """Names the data of a month."""
    interval = Interval.parse(name, clock.ZONE)
    ends = {"interval_start": interval.start.isoformat(), "interval_end": interval.end.isoformat()}
    dataset = _artifact(Dataset, folder / "dataset")
    delay = SETTINGS.default("label_delay_hours")
    ingest.test_call(dataset=dataset, tables=f"{HERE}.lake:TABLES", zone=clock.ZONE, label_delay_hours=delay, **ends)


def validate_month(name: str, folder: Path) -> None:
    """Judges the data that `ingest_month` named."""
    dataset, report = _artifact(Dataset, folder / "dataset"), _artifact(ValidationReport, folder / "report")
    interval = Interval.parse(name, clock.ZONE)
    dataset.interval_start, dataset.interval_end = interval.start.isoformat(), interval.end.isoformat()
    validate.test_call(
        dataset=dataset, report=report, expectations=f"{HERE}.expectations:subjects", pipeline="flight_delays"
    )


def transform_month(name: str, folder: Path) -> None:
    """Makes examples of the data that `validate_month` judged."""
    transform.test_call(
        dataset=_artifact(Dataset, folder / "dataset"),
        report=_artifact(ValidationReport, folder / "report"),
        examples=_artifact(standard_artifacts.Examples, folder / "examples"),
        transform=f"{HERE}.transform:transform",
        schema=f"{HERE}.features:SCHEMA",
        validation_days=SETTINGS.default("validation_days"),
    )


def read_month(name: str, folder: Path) -> Month:
    """Reads the three splits."""
    artifact = _artifact(standard_artifacts.Examples, folder)
    interval = Interval.parse(name, clock.ZONE)
    artifact.set_string_custom_property("interval_start", interval.start.isoformat())
    artifact.set_string_custom_property("interval_end", interval.end.isoformat())
    splits = []
    for split in ("train", "validation", "test"):
        rows = reading.read_table(folder, split, SCHEMA)
        splits.append(Split(_typed(pd.DataFrame(reading.features(rows, SCHEMA))), reading.labels(rows, SCHEMA)))
    return Month(name, artifact, *splits)


def judged(labels: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """The figures of one model."""
    return {
        "roc_auc": scores.roc_auc(labels, probability),
        "pr_auc": float(average_precision_score(labels, probability)),
        "log_loss": scores.log_loss(labels, probability),
        "calibration": float(probability.mean() / labels.mean()),
    }


def table(figures: list[dict[str, Any]]) -> list[str]:
    """A Markdown table: each model by month, its mean over seeds and how far seeds are apart; and over the months."""
    lines = [
        "| month | model | ROC AUC | PR AUC | log loss | calibration | seconds | ROC AUC, seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    months = dict.fromkeys(figure["month"] for figure in figures)
    for month in [*months, *(["mean"] if len(months) > 1 else [])]:
        for model in dict.fromkeys(figure["model"] for figure in figures):
            same = [one for one in figures if one["model"] == model and month in (one["month"], "mean")]
            mean = {name: float(np.mean([one[name] for one in same])) for name in NUMBERS}
            seeds = [one["roc_auc"] for one in same]
            apart = f" {min(seeds):.4f} to {max(seeds):.4f} |" if month != "mean" else " |"
            lines.append(row({"month": month, "model": model, **mean}) + apart)
    return lines


def row(figure: dict[str, Any]) -> str:
    return (
        f"| {figure['month']} | {figure['model']} | {figure['roc_auc']:.4f} | {figure['pr_auc']:.4f} | "
        f"{figure['log_loss']:.4f} | {figure['calibration']:.3f} | {figure['seconds']:.0f} |"
    )


def _ours(month: Month, scratch: Path, seed: int, refit: str) -> np.ndarray:
    scratch = scratch / f"{refit}-{seed}"
    model = _artifact(standard_artifacts.Model, scratch / "model")
    train.test_call(
        examples=month.artifact,
        model=model,
        model_run=_artifact(standard_artifacts.ModelRun, scratch / "run"),
        schema=f"{HERE}.features:SCHEMA",
        model_fn=f"{HERE}.model:build",
        epochs=SETTINGS.default("epochs"),
        refit=refit,
        seed=seed,
    )
    raw = {name: month.test.features[name].to_numpy() for name in SCHEMA.names}
    raw |= {name: raw[name].astype(object) for name in SCHEMA.of_kind("category")}
    return saved_model.Predictor(saved_model.serving_folder(model.uri), SCHEMA)(raw).astype(np.float64)


def _boosted(month: Month, seed: int, *, refit: bool, without: tuple[str, ...] = ()) -> np.ndarray:
    settings = {**LIGHTGBM, "seed": seed + 1}
    categories = {name: pd.CategoricalDtype(sorted(set(month.history.features[name]))) for name in _categories()}
    fitted, watched, test, history = (
        part.features.astype(categories).drop(columns=list(without))
        for part in (month.train, month.validation, month.test, month.history)
    )
    watch = lightgbm.Dataset(watched, month.validation.labels)
    stop = lightgbm.early_stopping(50, verbose=False)
    booster = lightgbm.train(
        settings, lightgbm.Dataset(fitted, month.train.labels), 1000, valid_sets=[watch], callbacks=[stop]
    )
    if refit:
        booster = lightgbm.train(settings, lightgbm.Dataset(history, month.history.labels), booster.best_iteration)
    return np.asarray(booster.predict(test))


def _logistic(month: Month) -> np.ndarray:
    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True),
        QuantileTransformer(output_distribution="normal", random_state=0),
    )
    encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20)
    columns = make_column_transformer((numbers, list(SCHEMA.of_kind("number"))), (encoder, _categories()))
    fitted = make_pipeline(columns, LogisticRegression(max_iter=300)).fit(month.history.features, month.history.labels)
    return fitted.predict_proba(month.test.features)[:, 1]


def _single(month: Month) -> np.ndarray:
    known = month.history.features[SINGLE].mean()
    fitted = LogisticRegression().fit(month.history.features[[SINGLE]].fillna(known), month.history.labels)
    return fitted.predict_proba(month.test.features[[SINGLE]].fillna(known))[:, 1]


def _categories() -> list[str]:
    return list(SCHEMA.of_kind("category"))


def _typed(features: pd.DataFrame) -> pd.DataFrame:
    return features.astype(dict.fromkeys(_categories(), str))


def _artifact(kind: type, folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    artifact = kind()
    artifact.uri = str(folder)
    return artifact


WAYS: dict[str, Callable[[Month, Path, int], np.ndarray]] = {
    "constant rate": lambda month, *_: np.full(len(month.test.labels), month.history.labels.mean()),
    f"{SINGLE} alone": lambda month, *_: _single(month),
    "logistic regression, refit": lambda month, *_: _logistic(month),
    "LightGBM": lambda month, _, seed: _boosted(month, seed, refit=False),
    "LightGBM, refit": lambda month, _, seed: _boosted(month, seed, refit=True),
    "LightGBM without the aircraft": lambda month, _, seed: _boosted(month, seed, refit=False, without=AIRCRAFT),
    "Airtight": lambda month, scratch, seed: _ours(month, scratch, seed, "judged"),
    "Airtight, refit": lambda month, scratch, seed: _ours(month, scratch, seed, "include_validation"),
}
"""Every model's probabilities for the test rows of a month, by the folder for its files and the seed."""


if __name__ == "__main__":
    main()
