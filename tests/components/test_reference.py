"""A regression in proportion to a feature: what is learned at one size holds at another, also in the server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from airtight.errors import TerminalError
from components.modelling import heads, raw_features, saved_model, tabular
from components.modelling.model_spec import ModelSpec
from components.tasks import task_of
from serving.loader import load
from tests.components import tables
from tests.components.tables import PROPORTIONAL

pytestmark = pytest.mark.slow

RATIOS = {"red": 2.0, "green": 0.5, "": 1.0}


def _table(rows: int, seed: int, sizes: tuple[float, float]) -> pa.Table:
    """Labels of the size times what the colour says, give or take a tenth."""
    rng = np.random.default_rng(seed)
    plain = tables.table(PROPORTIONAL, rows, seed)
    size = np.exp(rng.uniform(*np.log(sizes), rows)).astype(np.float32)
    ratio = np.array([RATIOS[colour] for colour in plain["colour"].to_pylist()])
    label = size * ratio * rng.lognormal(0, 0.1, rows)
    columns = {"size": pa.array(size), "label": pa.array(label)}
    for name, values in columns.items():
        plain = plain.set_column(plain.column_names.index(name), name, values)
    return plain


def network_alone(*arguments: Any) -> ModelSpec:
    """As `tabular.build`, without trees."""
    return tabular.build(*arguments, tabular.Settings(trees=None))


SMALL, LARGE = (20.0, 200.0), (2_000.0, 4_000.0)


@pytest.mark.parametrize("sizes", [SMALL, LARGE])
@pytest.mark.parametrize(
    "function",
    ["components.modelling.tabular:build_trees", "components.modelling.tabular:build", f"{__name__}:network_alone"],
)
def test_what_was_learned_of_small_ones_holds_for_large_ones(tmp_path: Path, function: str, sizes: tuple) -> None:
    made = {"train": _table(600, 0, SMALL), "validation": _table(200, 1, SMALL), "test": _table(100, 2, sizes)}
    artifact = tables.examples(tmp_path / "examples", PROPORTIONAL, **made)
    folder, record = tables.train(
        tmp_path,
        "PROPORTIONAL",
        artifact,
        model_fn=function,
        epochs=12,
        learning_rate=0.02,
        ema_momentum=0.9,
    )
    raw = raw_features.columns(made["test"], PROPORTIONAL.features)
    answers, labels = saved_model.Predictor(folder, PROPORTIONAL)(raw), made["test"]["label"].to_numpy()
    assert np.median(np.abs(answers[:, 1] / labels - 1)) < 0.2
    assert (np.diff(answers, axis=1) >= 0).all()
    assert record["validation"]["mae"] < 20

    missing = {"colour": np.array([b"red", b""], object), "size": np.array([np.nan, 100], np.float32)}
    loaded = load(folder, folder, 1).signature("serving_default")
    for answer in loaded.run(*(missing[spec.name] for spec in loaded.inputs)):
        assert np.isfinite(answer).all() and (answer >= 0).all()


def test_labels_below_0_are_refused() -> None:
    with pytest.raises(TerminalError, match="in proportion to no size"):
        heads.head_of(PROPORTIONAL).targets(np.array([1.0, -0.5]))


def test_a_reference_is_a_number_of_the_schema() -> None:
    with pytest.raises(TerminalError, match="reference"):
        task_of(replace(PROPORTIONAL, reference="colour"))
