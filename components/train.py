"""train: fits the pipeline's network on the examples and writes a SavedModel that takes raw feature values."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, List  # noqa: UP035 - TFX reads the annotation and knows typing.List alone.

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from airtight.audit import log as audit_log
from airtight.errors import TerminalError
from airtight.files import digest_of_tree, write_text
from airtight.import_string import load
from airtight.parameters import check_choice
from components.data import examples as reading
from components.modelling import fitting
from components.modelling.labelled_examples import LabelledExamples
from components.modelling.log_levels import quiet
from components.modelling.saved_model import serving_folder
from components.modelling.training import Start, Training
from components.rollout.anchoring import anchor_in

log = logging.getLogger(__name__)

RECORD = "training.json"
"""The training record inside a `ModelRun`."""
REFITS = ("judged", "include_validation")


@component
def train(
    examples: InputArtifact[standard_artifacts.Examples],
    model: OutputArtifact[standard_artifacts.Model],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    schema: Parameter[str],
    model_fn: Parameter[str],
    start_from: InputArtifact[List[standard_artifacts.Model]] = None,  # noqa: UP006
    epochs: Parameter[int] = 8,
    warm_epochs: Parameter[int] = 2,
    batch_size: Parameter[int] = 512,
    learning_rate: Parameter[float] = 4e-3,
    weight_decay: Parameter[float] = 1e-2,
    ema_momentum: Parameter[float] = 0.99,
    patience: Parameter[int] = 2,
    seed: Parameter[int] = 0,
    strategy: Parameter[str] = "mirrored",
    refit: Parameter[str] = "judged",
    calibrate: Parameter[str] = "none",
    deterministic: Parameter[bool] = True,
    threads: Parameter[int] = 1,
    warm_up: Parameter[float] = 0.5,
    final_rate: Parameter[float] = 0.02,
    beta_2: Parameter[float] = 0.99,
    window_mb: Parameter[int] = 128,
) -> None:
    """Fits the pipeline's network on the split `train`, choosing the epoch on `validation`, and exports it.

    Vocabularies and normalisation are learned from the rows that are fitted, and live inside the SavedModel. Equal
    examples and settings give equal metrics. A retry of the same training goes on after the last whole epoch.

    Rows are read in pieces. What is computed of them for the fit lies in the temporary folder (`TMPDIR`), some hundred
    bytes a row; in memory are a window of them, and labels and predictions of the validation rows.

    A warm start takes over the network's weights alone: optimizer, calibration and ensemble member begin anew.

    Args:
      examples: Splits `train` and `validation`, of the schema's columns.
      model: The SavedModel; see docs/architecture.md for its signatures. Beside it the network's weights, for a later
        fit to start from.
      model_run: TensorBoard's logs and the training record.
      schema: Names the pipeline's `ExampleSchema`.
      model_fn: Names the pipeline's function `(schema, fitted, validation, tuned, seed) -> ModelSpec`; see
        `components.modelling.model_spec`. `fitted` are the rows that are learned from and `validation` those that
        judge, both `LabelledExamples`; the latter is None in a refit, or where the split is empty. `tuned` is in a
        refit what the model before it tuned on the validation rows, else empty. Equal arguments must give equal models.
      start_from: A model whose weights every fit of this training starts from, or none. One that has kept none is
        warned of, and the training starts from scratch.
      epochs: Passes over the rows at most.
      warm_epochs: The same where it starts from another's weights, if that is fewer.
      batch_size: Rows in one step, over all devices together.
      learning_rate: The highest learning rate.
      weight_decay: AdamW's.
      ema_momentum: Of the moving average of the weights.
      patience: Epochs without a better validation loss before it ends.
      seed: Of everything random.
      strategy: "mirrored" (all GPUs, or the CPU), "mirrored_cpus" (the CPU in two), "one_device" or "tpu".
      refit: "judged" exports the model that the validation rows chose; "include_validation" makes a new one of train
        and validation rows together, for as many epochs as were found. Both know only what was before the interval.
      calibrate: How the validation rows correct the predictions: "none", for a probability "scale" or
        "scale_and_shift", for classes "temperature", for a regression "shift"; of several labels by name, such as
        "late=scale, delay=shift".
      deterministic: Whether equal examples and settings give equal weights. On a GPU some operations are slower then,
        and a few fail.
      threads: Of one TensorFlow operation; 0 is one for each core. Operations run side by side anyway, so that small
        networks gain nothing by more than 1.
      warm_up: Epochs in which the learning rate rises to the highest.
      final_rate: Share of the highest learning rate towards which it falls.
      beta_2: AdamW's.
      window_mb: MiB of rows that are in memory at once. Rows that fit into one window are shuffled whole, more of them
        within each window.

    Raises:
      TerminalError: A split holds infinite numbers, labels that are none or weights below 0, the training rows have one
        label alone, or loss or weights are no longer finite.
    """
    check_choice("refit", refit, REFITS)
    audit_log.check()
    interval = reading.interval_of(examples)
    settings = fitting.FitSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        ema_momentum=ema_momentum,
        patience=patience,
        seed=seed,
        warm_up=warm_up,
        final_rate=final_rate,
        beta_2=beta_2,
        window_mb=window_mb,
    )
    start = Start.of(start_from[0].uri) if start_from else None
    if start:
        settings = replace(settings, epochs=min(epochs, warm_epochs))
    training = Training(
        load(schema),
        model_fn,
        settings,
        strategy,
        Path(model_run.uri),
        start,
        deterministic=deterministic,
        threads=threads,
    )
    training.head.check_calibration(calibrate)
    splits = {name: LabelledExamples(Path(examples.uri), [name], training.schema) for name in ("train", "validation")}
    _check_labels(splits["train"])
    for rows in splits.values():
        _check_finite(rows)
    with quiet("absl", "tensorflow"):
        record = training.run(splits["train"], splits["validation"], refit, calibrate, model.uri)
    record = {"interval": interval, "schema": schema, **record}
    write_text(Path(model_run.uri) / RECORD, json.dumps(_without_nan(record), indent=1, allow_nan=False))
    for artifact in (model, model_run):
        artifact.set_string_custom_property("interval_start", interval[0])
        artifact.set_string_custom_property("interval_end", interval[1])
        artifact.set_string_custom_property("refit", refit)
        artifact.set_int_custom_property("rows", record["rows"]["fitted"])
        artifact.set_int_custom_property("warm_start", int(bool(start)))
    anchor = audit_log.append(
        audit_log.TRAINED,
        digest=digest_of_tree(serving_folder(model.uri)),
        interval=interval,
        rows=record["rows"]["fitted"],
        warm_start=start_from[0].uri if start_from else "",
    )
    anchor_in(model, anchor)
    log.info("The model lies in %s, its record in %s.", model.uri, Path(model_run.uri) / RECORD)


def _check_labels(rows: LabelledExamples) -> None:
    labels = rows.statistics.labels
    same = [f"all with the label {own.lowest:g} of {name}" for name, own in labels.items() if own.lowest == own.highest]
    if not labels or same:
        raise TerminalError(
            "There is nothing to learn from these training rows.",
            expected="rows of different labels",
            received=", ".join([f"{len(rows)} rows", *same]),
            remedy="Train on a longer history.",
        )


def _check_finite(rows: LabelledExamples) -> None:
    """Numbers may be missing (NaN), but not infinite: that is no value, and every sum that it enters is none."""
    infinite = [f"{name} in {count:,} of {len(rows):,} rows" for name, count in rows.statistics.infinite.items()]
    if infinite:
        raise TerminalError(
            f"The split {rows.name} holds infinite numbers.",
            expected="finite numbers, and NaN where one is missing",
            received=infinite,
            remedy="Correct the step that makes the examples; `transform` refuses such numbers or makes them missing.",
        )


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a figure that does not exist is null."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
