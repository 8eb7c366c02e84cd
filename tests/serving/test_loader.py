"""Loading runs what restores and initializes a model, and its warm-up records; it calls no signature by itself."""

from __future__ import annotations

import numpy as np
import pytest
from tensorflow_serving.apis import prediction_log_pb2

from serving import warmup
from serving.errors import Code, ServingError
from serving.loader import load
from tests.serving import models


def test_loading_does_not_train_the_model(tmp_path):
    models.save_counting(tmp_path / "1")
    loaded = load(tmp_path / "1", tmp_path, 1)
    [answer] = loaded.signature("").run(np.array([3.0], np.float32))
    assert answer.tolist() == [3.0]
    [weight] = loaded.signature("train").run(np.array([0.0], np.float32))
    assert float(weight) == pytest.approx(0.9)
    loaded.close()


def test_the_cost_of_calls_is_learned_from_requests_alone(tmp_path):
    models.save_affine(tmp_path / "1", 2.0)
    loaded = load(tmp_path / "1", tmp_path, 1)
    assert [signature.observed.costs for signature in loaded.signatures.values()] == [{}] * 4
    loaded.close()


def test_a_warm_up_record_of_no_kind_is_skipped_and_one_of_another_kind_refused(tmp_path):
    models.save_affine(tmp_path / "1", 2.0)
    empty = prediction_log_pb2.PredictionLog()
    empty.log_metadata.model_spec.name = "m"
    models.write_warm_up(tmp_path / "1", models.predict_record("m", [1.0]), empty.SerializeToString(), b"")
    loaded = load(tmp_path / "1", tmp_path, 1)
    assert warmup.replay(loaded, tmp_path / "1") == 3
    session = prediction_log_pb2.PredictionLog()
    session.session_run_log.request.model_spec.name = "m"
    models.save_affine(tmp_path / "2", 2.0)
    models.write_warm_up(tmp_path / "2", session.SerializeToString())
    with pytest.raises(ServingError, match="Unsupported log_type") as refused:
        warmup.replay(loaded, tmp_path / "2")
    assert refused.value.code is Code.UNIMPLEMENTED
    loaded.close()
