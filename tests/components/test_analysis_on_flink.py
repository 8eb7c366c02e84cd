"""TensorFlow Model Analysis on the real Flink session cluster: the same figures as on Beam's local runner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow_model_analysis as tfma

from airtight.home import Home
from components.measures import analysis
from components.measures.comparison import Rows
from components.measures.evaluation_rows import EvaluationRows
from components.measures.slices import CANDIDATE, CHAMPION, Slices
from components.tasks import task_of
from services.__main__ import up
from services.environment import environment
from streaming.engine.flink_rest import Flink
from tests.components.tasks.schemas import BINARY
from tests.services.conftest import home  # noqa: F401

ROWS = 300


def rows() -> tuple[EvaluationRows, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, ROWS).astype(np.int32)
    judged = Rows(task_of(BINARY), labels, np.arange(ROWS) // 30, "days")
    colour = Slices(("red", "green"), rng.integers(0, 2, ROWS).astype(np.int32))
    models = {model: rng.random(ROWS).astype(np.float32) for model in (CANDIDATE, CHAMPION)}
    return EvaluationRows(Path(), BINARY, judged, {"colour": colour}, np.zeros(ROWS), None), models


def figures(folder: Path) -> dict[str, dict[str, float]]:
    """The candidate's figures by slice and name."""
    result = tfma.load_eval_result(str(folder), model_name=CANDIDATE)
    return {
        str(key): {name: value["doubleValue"] for name, value in metrics[""][""].items() if "doubleValue" in value}
        for key, metrics in result.slicing_metrics
    }


@pytest.mark.slow
def test_figures_are_those_of_the_local_runner(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    settings = up(home, ["flink"])
    monkeypatch.setenv("AIRTIGHT_FLINK", environment(settings, home)["AIRTIGHT_FLINK"])
    judged, models = rows()
    analysis.analyse(judged, models, tmp_path / "here", ROWS)
    analysis.analyse(judged, models, tmp_path / "flink", ROWS, analysis.beam_arguments("flink --parallelism=1"))
    here, flink = figures(tmp_path / "here"), figures(tmp_path / "flink")
    assert here.keys() == flink.keys() and len(here) == 3
    for key, expected in here.items():
        assert flink[key] == pytest.approx(expected, rel=1e-6), key
    (job,) = Flink(settings.flink_rest).jobs()
    assert job.state == "FINISHED"


def test_a_text_is_flink_or_beams_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRTIGHT_FLINK", "there:8099")
    arguments = analysis.beam_arguments("flink --parallelism=4")
    assert {"--runner=PortableRunner", "--job_endpoint=there:8099", "--parallelism=4"} <= set(arguments)
    assert analysis.beam_arguments("--runner=SparkRunner --x='a b'") == ["--runner=SparkRunner", "--x=a b"]
    assert analysis.beam_arguments("") == []
