"""A toy pipeline's schema, model and examples: a category and two numbers, nothing to do with flights."""

from __future__ import annotations

import dataclasses
import datetime
import math
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tfx.types import standard_artifacts

from components.modelling.labelled_examples import LabelledExamples
from components.modelling.model_spec import ModelSpec
from components.schema import ExampleSchema, Feature

INTERVAL = ("2020-03-01T00:00:00+00:00", "2020-04-01T00:00:00+00:00")

SCHEMA = ExampleSchema(
    features=(
        Feature("colour", "category", "a colour"),
        Feature("size", "number", "a size", "m"),
        Feature("weight", "number", "a weight", "kg"),
    ),
    label="broken",
    time="at",
    keys=("id",),
    slices=("colour", "id"),
)


@keras.saving.register_keras_serializable("toy")
class Filled(keras.layers.Layer):
    """Numbers with their missing ones as 0, and beside them which were missing."""

    def call(self, numbers):
        missing = keras.ops.isnan(numbers)
        return keras.ops.concatenate(
            [keras.ops.where(missing, 0.0, numbers), keras.ops.cast(missing, "float32")], axis=-1
        )


def model(schema, fitted, validation, tuned, seed):
    """A small network with dropout and three members."""
    colours = sorted(fitted.statistics.vocabularies["colour"])
    inputs = {
        f.name: keras.Input((), dtype="string" if f.kind == "category" else "float32", name=f.name)
        for f in schema.features
    }
    colour = keras.layers.StringLookup(vocabulary=colours)(inputs["colour"])
    numbers = keras.ops.stack([inputs["size"], inputs["weight"]], axis=-1)
    preprocess = keras.Model(inputs, {"colour": colour, "numbers": Filled()(numbers)})

    def build():
        colour = keras.Input((), dtype="int64", name="colour")
        numbers = keras.Input((4,), name="numbers")
        both = keras.layers.Concatenate()([keras.layers.Embedding(len(colours) + 1, 4)(colour), numbers])
        hidden = keras.layers.Dropout(0.1)(keras.layers.Dense(16, activation="relu")(both))
        return keras.Model(
            {"colour": colour, "numbers": numbers}, keras.layers.Reshape((3, 1))(keras.layers.Dense(3)(hidden))
        )

    return ModelSpec(preprocess, build, vocabulary={"embedding_0/embeddings": ["", *colours]})


def model_with_member(schema, fitted, validation, tuned, seed):
    """The same, and beside it an ensemble member that answers the share of rows with label 1."""
    share = (validation or fitted).statistics.labels[schema.label].mean
    tuned = {"share": tuned.get("share", share)}
    spec = model(schema, fitted, validation, tuned, seed)
    logit = math.log(tuned["share"] / (1 - tuned["share"]))
    size = keras.ops.nan_to_num(spec.preprocess.input["size"])[:, None, None]
    return dataclasses.replace(
        spec, ensemble_member=keras.Model(spec.preprocess.input, 0.0 * size + logit), tuned=tuned
    )


def model_with_a_broken_weight(schema, fitted, validation, tuned, seed):
    """The same with a weight that is NaN and that no row looks at, so that no loss tells of it."""
    spec = model(schema, fitted, validation, tuned, seed)

    def build():
        network = spec.build_network()
        embedding = next(layer for layer in network.layers if isinstance(layer, keras.layers.Embedding))
        weights = embedding.get_weights()[0]
        weights[0] = np.nan  # The row of unknown colours; a missing one is among them, so the caller's rows have none.
        embedding.set_weights([weights])
        return network

    return dataclasses.replace(spec, build_network=build)


def model_with_a_broken_member(schema, fitted, validation, tuned, seed):
    """The same, and beside it an ensemble member that answers NaN."""
    spec = model(schema, fitted, validation, tuned, seed)
    size = keras.ops.nan_to_num(spec.preprocess.input["size"])[:, None, None]
    return dataclasses.replace(spec, ensemble_member=keras.Model(spec.preprocess.input, 0.0 * size + float("nan")))


def table(rows: int, seed: int, label: int | None = None) -> pa.Table:
    """Rows whose label depends on all features; some values are missing."""
    rng = np.random.default_rng(seed)
    colour = rng.choice(["red", "green", "blue", ""], rows)
    size = rng.normal(2, 1, rows).astype(np.float32)
    weight = rng.normal(0, 1, rows).astype(np.float32)
    logit = 1.5 * (colour == "red") - 1.5 * (colour == "green") + 1.2 * (size - 2) + weight
    size[rng.random(rows) < 0.1] = np.nan
    broken = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    if label is not None:
        broken[:] = label
    at = [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(minutes=i) for i in range(rows)]
    return pa.table(
        {
            "colour": pa.array(colour, pa.string()),
            "size": size,
            "weight": weight,
            "broken": broken,
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "id": pa.array([f"k{i % 2}" for i in range(rows)]),
        }
    )


def examples(folder: Path, **splits: pa.Table) -> standard_artifacts.Examples:
    """An `Examples` artifact of these splits; by default 600 train, 200 validation and 400 test rows."""
    splits = {"train": table(600, 1), "validation": table(200, 2), "test": table(400, 3)} | splits
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder)
    artifact.splits = list(splits)
    for name, rows in splits.items():
        (folder / f"Split-{name}").mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, folder / f"Split-{name}" / "examples-00000-of-00001.parquet")
    artifact.set_string_custom_property("interval_start", INTERVAL[0])
    artifact.set_string_custom_property("interval_end", INTERVAL[1])
    return artifact


def labelled(folder: Path, schema: ExampleSchema, raw: dict[str, np.ndarray], labels: np.ndarray) -> LabelledExamples:
    """Raw features by name and labels, each [rows], as the training rows of an artifact."""
    columns = {
        name: pa.array(values.tolist(), pa.string() if values.dtype == object else pa.float32())
        for name, values in raw.items()
    }
    at = pa.array([datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)] * len(labels))
    examples(folder, train=pa.table({**columns, schema.label: labels, schema.time: at}))
    return LabelledExamples(folder, ["train"], schema)


def artifact(kind: type, folder: Path):
    """A new, empty artifact in this folder, as the launcher hands one to a component."""
    folder.mkdir(parents=True, exist_ok=True)
    new = kind()
    new.uri = str(folder)
    return new
