"""How a fit is fed: batches of rows that lie on disk, in an order of their own, and each device's share of them.

Rows are shuffled in a window. Where all rows fit into one, that is a whole shuffle; else each epoch puts the blocks of
the store in another order, reads as many as fill a window, and shuffles these rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from components.modelling.row_store import RowStore


@dataclass(frozen=True)
class Windows:
    """How an epoch is cut.

    Args:
      rows: All rows.
      block: Rows of a block but for the last, which stays last.
      blocks: Blocks of a window but for the last.
      batch: Rows of a batch; what is left of a window is left out of the epoch.
    """

    rows: int
    block: int
    blocks: int
    batch: int

    @property
    def count(self) -> int:
        """Windows of an epoch."""
        return -(-self.rows // (self.block * self.blocks))

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        size = self.block * self.blocks
        last = self.rows - (self.count - 1) * size
        return (self.count - 1) * (size // self.batch) + last // self.batch


def windows_of(rows: RowStore, batch: int, window_bytes: int) -> Windows:
    """How an epoch of these rows is cut into windows of at most so many bytes, but never less than a block.

    One is in memory: none is read ahead.
    """
    blocks = max(1, window_bytes // (rows.block * rows.row_bytes))
    return Windows(len(rows), rows.block, max(blocks, -(-batch // rows.block)), batch)


def batches(
    rows: RowStore,
    windows: Windows,
    seed: int,
    first: int,
    last: int,
    share: int = 0,
    shares: int = 1,
) -> tf.data.Dataset:
    """Every epoch's batches, in an order that depends on the seed and the epoch alone; a rest of rows is left out.

    Args:
      rows: A nest of all rows, such as (inputs, target).
      windows: How an epoch is cut; its batch is a multiple of `shares`.
      seed: Of the order.
      first: Epoch to begin with, from 0.
      last: Epoch to end before.
      share: Which part of each batch, from 0.
      shares: In how many parts each batch is cut, as many rows in a row each.
    """
    size = windows.batch // shares
    whole = windows.rows // windows.block

    def window_of(number: tf.Tensor) -> tuple[tf.Tensor, Any]:
        epoch, place = number // windows.count, number % windows.count
        order = tf.range(rows.blocks, dtype=tf.int64)
        if windows.count > 1:
            seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
            shuffled = tf.random.experimental.index_shuffle(order[:whole], seeds, whole - 1)
            order = tf.concat([shuffled, order[whole:]], axis=0)
        return number, rows.tensors(order[place * windows.blocks : (place + 1) * windows.blocks])

    def batches_of(number: tf.Tensor, window: Any) -> tf.data.Dataset:
        count = tf.shape(tf.nest.flatten(window)[0], out_type=tf.int64)[0]
        seeds = tf.stack([tf.constant(seed, tf.int64), number])

        def batch_of(step: tf.Tensor) -> Any:
            position = step * windows.batch + share * size
            places = tf.random.experimental.index_shuffle(position + tf.range(size, dtype=tf.int64), seeds, count - 1)
            return tf.nest.map_structure(lambda array: tf.gather(array, places), window)

        return tf.data.Dataset.range(count // windows.batch).map(batch_of, num_parallel_calls=1)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # There is nothing to tune, and the thread that tunes sleeps: see `distributed`.
    options.autotune.enabled = False
    numbers = tf.data.Dataset.range(first * windows.count, last * windows.count)
    # A window is read in some tens of milliseconds, when the one before it is used up and, with its own data set, gone:
    # to have the next one ready would cost the memory of two more.
    data = numbers.flat_map(lambda number: tf.data.Dataset.from_tensors(number).map(window_of).flat_map(batches_of))
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
    options = tf.distribute.InputOptions(
        experimental_fetch_to_device=False, experimental_replication_mode=tf.distribute.InputReplicationMode.PER_REPLICA
    )
    # The shares are those into which TensorFlow would cut a batch itself.
    return strategy.distribute_datasets_from_function(
        lambda replica: make(share=replica.input_pipeline_id, shares=len(devices)), options
    )
