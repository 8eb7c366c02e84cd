"""The file of batching parameters, as TensorFlow Serving has it."""

from __future__ import annotations

import pytest

from airtight.errors import TerminalError
from serving.batching_parameters import BatchingParameters, parameters_from_file
from tests.serving.batching import written


def test_a_parameters_file_is_read_as_tensorflow_serving_reads_it(tmp_path):
    parameters = parameters_from_file(
        written(
            tmp_path,
            """max_batch_size { value: 32 } batch_timeout_micros { value: 2000 } max_enqueued_batches { value: 7 }
               num_batch_threads { value: 3 } thread_pool_name { value: "b" } allowed_batch_sizes: 8
               allowed_batch_sizes: 32 pad_variable_length_inputs: false""",
        ),
        workers=2,
    )
    assert parameters == BatchingParameters(32, 0.002, 7, 3, (8, 32))
    assert parameters_from_file(written(tmp_path, ""), workers=5) == BatchingParameters(1000, 0.0, 10, 5)


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size: 32",
        "max_batchsize { value: 1 }",
        "max_batch_size { value: 0 }",
        "num_batch_threads { value: 0 }",
        "max_enqueued_batches { value: 0 }",
        "batch_timeout_micros { value: -1 }",
        "allowed_batch_sizes: 8 allowed_batch_sizes: 4",
        "max_batch_size { value: 16 } allowed_batch_sizes: 8",
        "pad_variable_length_inputs: true",
    ],
)
def test_parameters_that_cannot_be_kept_are_refused(tmp_path, text):
    with pytest.raises(TerminalError):
        parameters_from_file(written(tmp_path, text), workers=1)
    with pytest.raises(TerminalError):
        parameters_from_file(tmp_path / "nowhere", workers=1)
