"""How a fit is fed: batches in an order of their own, and each device's share of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from components.modelling.fitting import Rows


def batches(
    rows: Rows, batch: int, seed: int, first: int, last: int, share: int = 0, shares: int = 1
) -> tf.data.Dataset:
    """Every epoch's batches, in an order that depends on the seed and the epoch alone; a rest of rows is left out.

    Args:
      rows: All rows.
      batch: Rows of a batch, a multiple of `shares`.
      seed: Of the order.
      first: Epoch to begin with, from 0.
      last: Epoch to end before.
      share: Which part of each batch, from 0.
      shares: In how many parts each batch is cut, as many rows in a row each.
    """
    count, steps, size = len(rows), len(rows) // batch, batch // shares
    inputs = tf.nest.map_structure(tf.convert_to_tensor, rows.inputs)
    labels = tf.convert_to_tensor(rows.labels.astype(np.float32)[:, None])

    def batch_of(step: tf.Tensor) -> tuple[Any, tf.Tensor]:
        epoch, position = step // steps, (step % steps) * batch + share * size
        seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
        places = tf.random.experimental.index_shuffle(position + tf.range(size, dtype=tf.int64), seeds, count - 1)
        return tf.nest.map_structure(lambda x: tf.gather(x, places), inputs), tf.gather(labels, places)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # There is nothing to tune, and who tunes sleeps: see `distributed`.
    options.autotune.enabled = False
    data = tf.data.Dataset.range(first * steps, last * steps).map(batch_of, num_parallel_calls=1)
    return data.prefetch(4).with_options(options)


def distributed(make: Callable[..., tf.data.Dataset], strategy: tf.distribute.Strategy) -> Any:
    """Batches as `network.fit` takes them; for mirrored CPUs without what fetches them to devices.

    That is a dataset of its own, which TensorFlow tunes whatever ours says. The thread that does it sleeps for longer
    and longer, up to a minute, and a fit that ends would wait until it wakes up.

    Args:
      make: `batches` but for the share.
      strategy: Where.
    """
    devices = strategy.extended.worker_devices
    if not isinstance(strategy, tf.distribute.MirroredStrategy) or not all("CPU" in device for device in devices):
        return make()
    where = tf.distribute.InputOptions(
        experimental_fetch_to_device=False, experimental_replication_mode=tf.distribute.InputReplicationMode.PER_REPLICA
    )
    # The shares are those into which TensorFlow would cut a batch itself.
    return strategy.distribute_datasets_from_function(
        lambda replica: make(share=replica.input_pipeline_id, shares=len(devices)), where
    )
