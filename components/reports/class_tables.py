"""What an evaluation's report shows of probabilities of several classes: who is taken for whom, and how surely."""

from __future__ import annotations

import html as text
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from components.measures.scores import calibration_bins, mean
from components.measures.slices import CANDIDATE
from components.reports.pictures import GREY, NAMES, picture, style, titled

MOST_CLASSES = 30
"""With more classes, those of the most rows are shown."""


def html(
    classes: Sequence[str], labels: np.ndarray, predictions: Mapping[str, np.ndarray], weights: np.ndarray | None
) -> str:
    """Confusion matrix of the candidate, reliability of the likeliest class, and a table of the classes.

    Args:
      classes: Their names.
      labels: Places in `classes`, [rows].
      predictions: Probabilities by model, each [rows, classes].
      weights: [rows], or None.
    """
    shown = np.sort(np.argsort(-np.bincount(labels, minlength=len(classes)), kind="stable")[:MOST_CLASSES])
    size = 3.2 + 0.28 * len(shown)
    figure = Figure(figsize=(size + 5.5, size), layout="constrained")
    matrix, reliability = figure.subplots(1, 2, width_ratios=(size, 5.5))
    answered = predictions[CANDIDATE].argmax(axis=1)
    counts = confusion_matrix(labels, answered, labels=shown, sample_weight=weights)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
    matrix.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(shares.shape):
        if shares[row, column] >= 0.005:  # noqa: PLR2004 - Less would read 0 %.
            colour = "white" if shares[row, column] > 0.5 else "#1c2430"  # noqa: PLR2004 - Where blue is dark.
            matrix.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=colour)
    names = [classes[place] for place in shown]
    matrix.set_xticks(range(len(shown)), names, rotation=45, ha="right")
    matrix.set_yticks(range(len(shown)), names)
    matrix.set(title="Candidate: of 100 rows of a class", xlabel="answered", ylabel="is")
    reliability.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    for model, values in predictions.items():
        bins = calibration_bins(values.argmax(axis=1) == labels, values.max(axis=1), weights=weights)
        reliability.plot(bins[:, 0], bins[:, 1], marker="o", ms=4, lw=1.8, **style(model))
    titled(reliability, "Likeliest class, bins of equal rows", "its probability", "share that is right")
    reliability.set(xlim=(0, 1), ylim=(0, 1.02))
    return picture(figure, "Confusion matrix and reliability") + _table(classes, shown, labels, predictions, weights)


def _table(
    classes: Sequence[str],
    shown: np.ndarray,
    labels: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    weights: np.ndarray | None,
) -> str:
    head = "<th>class</th><th class=n>rows</th><th class=n>share</th>"
    for title in ("mean probability", "answered", "precision", "recall"):
        head += "".join(f"<th class=n>{title}<br>{NAMES[model]}</th>" for model in predictions)
    counted = np.ones(len(labels)) if weights is None else weights
    answers = {model: values.argmax(axis=1) for model, values in predictions.items()}
    lines = []
    for place in shown:
        is_class = labels == place
        cells = f"<td>{text.escape(classes[place])}</td><td class=n>{is_class.sum():,}</td>"
        cells += f"<td class=n>{mean(is_class, weights):.4f}</td>"
        right = {model: counted[is_class & (answer == place)].sum() for model, answer in answers.items()}
        answered = {model: counted[answer == place].sum() for model, answer in answers.items()}
        columns = [
            [mean(values[:, place].astype(np.float64), weights) for values in predictions.values()],
            [total / counted.sum() for total in answered.values()],
            [_ratio(right[model], answered[model]) for model in predictions],
            [_ratio(right[model], counted[is_class].sum()) for model in predictions],
        ]
        cells += "".join(f"<td class=n>{_number(value)}</td>" for column in columns for value in column)
        lines.append(f"<tr>{cells}</tr>")
    more = f"<p class=small>The {len(shown)} of {len(classes)} classes of the most rows.</p>"
    return f"{more if len(shown) < len(classes) else ''}<table><tr>{head}</tr>{''.join(lines)}</table>"


def _ratio(part: float, of: float) -> float:
    return part / of if of else float("nan")


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"
