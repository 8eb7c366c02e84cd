"""Toy tables of each task and each kind of feature, and a training on one of them."""

from __future__ import annotations

import datetime
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import tensorflow as tf
from tfx.types import standard_artifacts

from components import train as training
from components.modelling import saved_model
from components.schema import ExampleSchema, Feature, Label
from tests.components import toy

FEATURES = (
    Feature("colour", "category", "a colour"),
    Feature("size", "number", "a size", "m"),
    Feature("tags", "categories", "words beside it"),
    Feature("note", "text", "a sentence"),
    Feature("measures", "vector", "a vector", length=3),
    Feature("picture", "image", "a picture"),
)
BINARY = ExampleSchema(FEATURES[:2], "label", "at", ("id",), ("colour",))
MULTICLASS = replace(BINARY, task="multiclass", classes=("low", "middle", "höch"))
MEAN = replace(BINARY, task="regression")
QUANTILES = replace(MEAN, quantiles=(0.1, 0.5, 0.9))
PROPORTIONAL = replace(QUANTILES, reference="size")
WEIGHTED = replace(BINARY, weight="times")
SEVERAL = replace(BINARY, more_labels=(Label("other", "regression"),))
TAGS, NOTE, MEASURES, PICTURE = (replace(BINARY, features=(feature,), slices=()) for feature in FEATURES[2:])
ALL = replace(BINARY, features=FEATURES)
SCHEMAS = {"binary": BINARY, "multiclass": MULTICLASS, "mean": MEAN, "quantiles": QUANTILES}
NOTES = {"red": "Very RED, indeed!", "green": "as green as grass", "": ""}


def picture(level: float) -> bytes:
    """A PNG of one grey."""
    return tf.io.encode_png(np.full((8, 8, 3), int(np.clip(level, 0, 255)), np.uint8)).numpy()


def table(schema: ExampleSchema, rows: int, seed: int) -> pa.Table:
    """Rows whose label depends on colour and size, which all other features tell, too."""
    rng = np.random.default_rng(seed)
    colour, size = rng.choice(["red", "green", ""], rows), rng.normal(2, 1, rows).astype(np.float32)
    value = 200 + 60 * (colour == "red") - 60 * (colour == "green") + 50 * (size - 2) + rng.normal(0, 20, rows)
    missing = rng.random(rows) < 0.1
    labels = {
        "binary": (value > 200).astype(np.int64),
        "multiclass": [("low", "middle", "höch")[place] for place in np.digitize(value, [160, 240])],
        "regression": value,
    }
    pictures = {level: picture(level) for level in range(0, 256, 16)}
    at = [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(minutes=i) for i in range(rows)]
    columns = {
        "colour": pa.array(colour),
        "size": np.where(missing, np.nan, size).astype(np.float32),
        "tags": pa.array([[c, "rare"] if c else [] for c in colour]),
        "note": pa.array([NOTES[c] for c in colour]),
        "measures": pa.array(np.stack([size, value, size * 0], 1).tolist(), pa.list_(pa.float32())),
        "picture": pa.array([pictures[int(np.clip(v / 2, 0, 255)) // 16 * 16] for v in value], pa.binary()),
        "label": labels[schema.task],
        "other": value,
        "times": np.where(value > 200, 3.0, 1.0),
        "at": pa.array(at, pa.timestamp("us", "UTC")),
        "id": pa.array([f"k{i % 2}" for i in range(rows)]),
    }
    return pa.table(columns)


def examples(folder: Path, schema: ExampleSchema, **splits: pa.Table) -> standard_artifacts.Examples:
    """An artifact of 600 train, 200 validation and 400 test rows."""
    sizes = {"train": 600, "validation": 200, "test": 400}
    made = {name: table(schema, rows, seed) for seed, (name, rows) in enumerate(sizes.items())}
    return toy.examples(folder, **{**made, **splits})


def train(folder: Path, schema: str, artifact: standard_artifacts.Examples | None = None, **settings):
    """Trains `components.modelling.tabular:build` on the schema of this name here.

    Returns:
      The SavedModel's folder and the training record.
    """
    artifact = artifact or examples(folder / "examples", globals()[schema])
    model = toy.artifact(standard_artifacts.Model, folder / "model")
    training.train.test_call(
        examples=artifact,
        model=model,
        model_run=toy.artifact(standard_artifacts.ModelRun, folder / "run"),
        schema=f"tests.components.tables:{schema}",
        **{"model_fn": "components.modelling.tabular:build", "epochs": 2, "batch_size": 64, **settings},
    )
    record = json.loads((folder / "run" / training.RECORD).read_text())
    return saved_model.serving_folder(model.uri), record
