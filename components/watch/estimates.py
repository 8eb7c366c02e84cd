"""How good predictions are while their labels have not come: expected figures by calibrated probabilities or losses.

- Of classes, calibrated CBPE (confidence-based performance estimation): every prediction counts once for each class,
  with the class's calibrated probability as its weight, so that any metric that takes weights is expected. Calibration
  is isotonic (Zadrozny and Elkan 2002) or Platt's (1999), fitted on days whose labels have come.
- Of numbers, DLE (direct loss estimation): a small model of a row's loss, of what was predicted and the slices.

Both assume that what a prediction means has not changed since the labels by which they were fitted; that is what they
cannot see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.measures.slices import Slices
from components.tasks import Task

ISOTONIC, PLATT, NONE = CALIBRATIONS = ("isotonic", "platt", "none")
LEAST_ROWS = 200
"""Labelled rows with fewer of which nothing is fitted."""
_MOST_POINTS = 256
_TREES = {
    "objective": "regression",
    "learning_rate": 0.1,
    "num_leaves": 15,
    "min_data_in_leaf": 50,
    "verbose": -1,
    "num_threads": 1,
    "seed": 0,
    "deterministic": True,
}
_ROUNDS = 60
_CLIP = 1e-6


@dataclass(frozen=True)
class Estimator:
    """What is fitted on labelled rows; of JSON's types, so that an artifact keeps it.

    Args:
      calibration: Of a task of classes, by class: "x" and "y" of a line through points (isotonic), or "a" and "b" of a
        logistic curve of the logit (Platt).
      losses: Of a task of numbers, by metric: LightGBM's text.
      slices: Of a task of numbers, by slice the values in the order of their codes.
      rows: It was fitted on.
      parts: Of several labels, by name that of each for which it could be fitted.
    """

    rows: int
    calibration: tuple[Mapping[str, Any], ...] = ()
    losses: Mapping[str, str] = field(default_factory=dict)
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Mapping[str, Estimator] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For `of_json`."""
        slices = {name: list(values) for name, values in self.slices.items()}
        calibration = [dict(one) for one in self.calibration]
        own = {"rows": self.rows, "calibration": calibration, "losses": dict(self.losses), "slices": slices}
        parts = {name: part.to_json() for name, part in self.parts.items()}
        return {**own, "parts": parts} if parts else own

    @classmethod
    def of_json(cls, payload: Mapping[str, Any]) -> Estimator:
        """The inverse of `to_json`."""
        slices = {name: tuple(values) for name, values in payload["slices"].items()}
        parts = {name: cls.of_json(part) for name, part in payload.get("parts", {}).items()}
        return cls(payload["rows"], tuple(payload["calibration"]), payload["losses"], slices, parts)


def fit(
    task: Task,
    labels: np.ndarray,
    predictions: np.ndarray,
    slices: Mapping[str, Slices],
    calibration: str = ISOTONIC,
) -> Estimator | None:
    """Fits on rows whose labels have come.

    Args:
      task: Of the labels.
      labels: Encoded, [rows] or [rows, labels].
      predictions: [rows] or [rows, outputs].
      slices: Of the rows.
      calibration: One of CALIBRATIONS; of a task of numbers it has no effect.

    Returns:
      None where there are fewer than LEAST_ROWS rows, or they all have one label.
    """
    if len(task.parts) > 1:
        by_label = {
            name: fit(part, task.labels_of(name, labels), task.predictions_of(name, predictions), slices, calibration)
            for name, part in task.parts.items()
        }
        parts = {name: part for name, part in by_label.items() if part}
        return Estimator(len(labels), parts=parts) if parts else None
    if len(labels) < LEAST_ROWS or labels.min() == labels.max():
        return None
    if np.issubdtype(labels.dtype, np.floating):
        return _fit_losses(task, labels, predictions, slices)
    by_class = _by_class(predictions)
    fitted = tuple(
        _fit_calibration((labels == number).astype(np.float64), by_class[:, number], calibration)
        for number in _fitted_classes(by_class)
    )
    return Estimator(len(labels), fitted)


def estimate(
    estimator: Estimator, task: Task, predictions: np.ndarray, slices: Mapping[str, Slices]
) -> dict[str, float]:
    """Expected metrics of predictions, by name; of numbers those that are a mean of losses.

    Args:
      estimator: As it was fitted.
      task: Of the labels.
      predictions: [rows] or [rows, outputs], at least one row.
      slices: Of the rows.
    """
    if estimator.parts:
        return {
            f"{name}_{metric}": value
            for name, part in estimator.parts.items()
            for metric, value in estimate(
                part, task.parts[name], task.predictions_of(name, predictions), slices
            ).items()
        }
    if estimator.losses:
        return _expected_losses(estimator, task, predictions, slices)
    probabilities = calibrated(estimator, predictions)
    rows, classes = probabilities.shape
    labels = np.repeat(np.arange(classes), rows)
    repeated = np.concatenate([predictions] * classes)
    weights = probabilities.T.ravel()
    return {name: metric.value(labels, repeated, weights) for name, metric in task.metrics.items()}


def calibrated(estimator: Estimator, predictions: np.ndarray) -> np.ndarray:
    """Calibrated probabilities of the classes, float64 [rows, classes], that sum up to 1."""
    by_class = _by_class(predictions)
    fitted = [
        _apply(one, by_class[:, number])
        for one, number in zip(estimator.calibration, _fitted_classes(by_class), strict=True)
    ]
    if predictions.ndim == 1:
        return np.stack([1 - fitted[0], fitted[0]], axis=1)
    probabilities = np.stack(fitted, axis=1)
    total = probabilities.sum(axis=1, keepdims=True)
    # Where calibration leaves no class at all, the model's own probabilities are the best there is.
    return np.where(total > _CLIP, probabilities / np.maximum(total, _CLIP), by_class)


def _by_class(predictions: np.ndarray) -> np.ndarray:
    """Probabilities of all classes, float64 [rows, classes]."""
    values = predictions.astype(np.float64)
    return np.stack([1 - values, values], axis=1) if values.ndim == 1 else values


def _fitted_classes(by_class: np.ndarray) -> range:
    """Of two classes of a binary label the second alone is fitted."""
    return range(1, 2) if by_class.shape[1] == 2 else range(by_class.shape[1])  # noqa: PLR2004


def _fit_calibration(is_class: np.ndarray, probability: np.ndarray, calibration: str) -> dict[str, Any]:
    if calibration == NONE or is_class.min() == is_class.max():
        return {"x": [0.0, 1.0], "y": [0.0, 1.0]} if calibration == NONE else {"x": [0.0], "y": [float(is_class[0])]}
    if calibration == PLATT:
        from sklearn.linear_model import LogisticRegression

        curve = LogisticRegression(C=1e6).fit(_logit(probability)[:, None], is_class)
        return {"a": float(curve.coef_[0, 0]), "b": float(curve.intercept_[0])}
    from sklearn.isotonic import IsotonicRegression

    line = IsotonicRegression(out_of_bounds="clip", y_min=0.0, y_max=1.0).fit(probability, is_class)
    x, y = line.X_thresholds_, line.y_thresholds_
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_POINTS)).round().astype(int))
    return {"x": [float(v) for v in x[kept]], "y": [float(v) for v in y[kept]]}


def _apply(fitted: Mapping[str, Any], probability: np.ndarray) -> np.ndarray:
    if "a" in fitted:
        curve: np.ndarray = 1 / (1 + np.exp(-(fitted["a"] * _logit(probability) + fitted["b"])))
        return curve
    return np.interp(probability, fitted["x"], fitted["y"])


def _logit(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability, _CLIP, 1 - _CLIP)
    return np.log(clipped) - np.log1p(-clipped)


def _fit_losses(task: Task, labels: np.ndarray, predictions: np.ndarray, slices: Mapping[str, Slices]) -> Estimator:
    import lightgbm

    names = {name: tuple(values.names) for name, values in slices.items()}
    rows = _features(predictions, slices, names)
    categories = list(range(rows.shape[1] - len(names), rows.shape[1]))
    trees = {}
    for name, metric in task.metrics.items():
        if metric.losses is not None:
            losses = metric.losses(labels, predictions)
            data = lightgbm.Dataset(rows, losses, categorical_feature=categories, params=_TREES)
            trees[name] = lightgbm.train(_TREES, data, _ROUNDS).model_to_string()
    return Estimator(len(labels), losses=trees, slices=names)


def _expected_losses(
    estimator: Estimator, task: Task, predictions: np.ndarray, slices: Mapping[str, Slices]
) -> dict[str, float]:
    import lightgbm

    rows = _features(predictions, slices, estimator.slices)
    expected = {}
    for name, text in estimator.losses.items():
        mean = float(np.mean(np.asarray(lightgbm.Booster(model_str=text).predict(rows))))
        expected[name] = 1 - mean if task.metrics[name].higher_is_better else mean
    return expected


def _features(
    predictions: np.ndarray, slices: Mapping[str, Slices], names: Mapping[str, tuple[str, ...]]
) -> np.ndarray:
    """Predictions, and slices as codes of the names; NaN for a value that was not there."""
    columns = [predictions.astype(np.float64).reshape(len(predictions), -1)]
    for name, values in names.items():
        place = {value: number for number, value in enumerate(values)}
        there = slices.get(name)
        if there is None:
            columns.append(np.full((len(predictions), 1), np.nan))
            continue
        codes = np.array([place.get(value, np.nan) for value in there.names], np.float64)
        columns.append(codes[there.codes][:, None])
    return np.concatenate(columns, axis=1)
