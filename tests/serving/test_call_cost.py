"""Which signatures cost what the sizes of their inputs say, and which what the values of a request make them cost."""

from __future__ import annotations

import pytest
import tensorflow as tf

from serving.loader import load
from tests.serving import models


def polynomial(x):
    return tf.nn.relu(x[:, None] @ tf.ones([1, 3])) + tf.zeros_like(x)[:, None] + tf.fill([tf.shape(x)[0], 1], 2.0)


def padded(x):
    return tf.concat([tf.pad(x, [[1, 1]]), tf.tile(x, [2]), tf.random.uniform(tf.shape(x))], 0)


def sized_in_a_function(x):
    @tf.function
    def ones(size):
        return tf.ones([size])

    return ones(tf.shape(x)[0]) + ones(tf.size(x))


def loops(x):
    return tf.while_loop(lambda i: i < x[0], lambda i: i + 1.0, [tf.constant(0.0)])[0]


def branches(x):
    return tf.cond(x[0] > 0.0, lambda: x, lambda: tf.linalg.expm(tf.ones([300, 300]))[0, :1])


def counts(x):
    return tf.reduce_sum(tf.range(tf.cast(x[0], tf.int32)))


def fills(x):
    @tf.function
    def ones(size):
        return tf.reduce_sum(tf.ones([size]))

    return ones(tf.cast(x[0], tf.int32))


def repeats(x):
    return tf.tile(x, [tf.cast(x[0], tf.int32)])


def draws(x):
    return tf.random.normal([tf.cast(x[0], tf.int32)])


def unpacks(x):
    return tf.strings.length(tf.io.decode_compressed(tf.strings.as_string(x), "ZLIB"))


def reads_data(x):
    return tf.data.Dataset.range(tf.cast(x[0], tf.int64)).reduce(tf.constant(0, tf.int64), lambda s, i: s + i)


STEADY = [polynomial, padded, sized_in_a_function]
UNSTEADY = [loops, branches, counts, fills, repeats, draws, unpacks, reads_data]


@pytest.mark.parametrize("function", [*STEADY, *UNSTEADY])
def test_what_a_call_costs_follows_from_sizes_or_from_values(tmp_path, function):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(x):
        return {"y": function(x)}

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=serve)
    loaded = load(tmp_path / "1", tmp_path, 1)
    assert loaded.signature("").observed.steady is (function in STEADY)
    loaded.close()


def test_the_models_of_the_benchmarks_cost_what_their_sizes_say(tmp_path):
    from benchmarks.model_servers import save_small

    save_small(tmp_path / "1")
    models.save_affine(tmp_path / "2", 1.0)
    for version in "12":
        loaded = load(tmp_path / version, tmp_path, 1)
        assert all(signature.observed.steady for signature in loaded.signatures.values())
        loaded.close()
