"""How fast a network learns from rows on disk, against the same compiled step fed from memory.

    python -m benchmarks.training_input EXAMPLES [--schema NAME] [--window-mb 8]

EXAMPLES is the folder of an `Examples` artifact of the schema, such as one that `make demo` left in
`.airtight/artifacts/flight_delays/transform/examples/`. Its training rows are preprocessed once, as `train` does it,
and the same network then learns from them epoch by epoch, in turn from disk in windows (so small that there are many)
and from tensors in memory. The last lines have the ratio of the best rounds, since other programs can only slow one
down, and of the CPU seconds of an example, which others hardly change.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from airtight.import_string import load
from components.modelling import fitting, input_pipeline, raw_features, tabular
from components.modelling.heads import head_of
from components.modelling.labelled_examples import LabelledExamples
from components.modelling.row_store import RowStore
from components.schema import ExampleSchema

BATCH, ROUNDS = 512, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", type=Path)
    parser.add_argument("--schema", default="pipelines.flight_delays.features:SCHEMA")
    parser.add_argument("--window-mb", type=float, default=8.0, help="bytes of a window, in MiB; training takes 128")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--split", default="train")
    arguments = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    strategy = fitting.make_strategy("mirrored")
    schema: ExampleSchema = load(arguments.schema)
    rows = LabelledExamples(arguments.examples, [arguments.split], schema)
    keras.utils.set_random_seed(0)
    spec = tabular.build(schema, rows, None, {}, 0, tabular.Settings(trees=None))
    started = time.monotonic()
    store = preprocessed(spec.preprocess, rows)
    seconds = time.monotonic() - started
    print(f"{len(store):,} rows of {store.row_bytes} bytes preprocessed in {seconds:.1f} s")
    windows = input_pipeline.windows_of(store, BATCH, int(arguments.window_mb * 2**20))
    print(f"{windows.count} windows of {windows.blocks} blocks of {windows.block} rows, {windows.steps} steps an epoch")
    blocks = [store.read(block) for block in range(store.blocks)]
    tensors = tf.nest.map_structure(lambda *arrays: tf.constant(np.concatenate(arrays)), *blocks)
    # As in training, one iterator feeds all epochs.
    epochs = arguments.rounds + 1
    feeds = {
        "disk": iter(
            input_pipeline.distributed(partial(input_pipeline.batches, store, windows, 0, 0, epochs), strategy)
        ),
        "memory": iter(input_pipeline.distributed(partial(from_memory, tensors, windows, epochs), strategy)),
    }
    with strategy.scope():
        network = spec.build_network()
        network.compile(keras.optimizers.AdamW(1e-3), fitting.HeadLoss(head_of(schema)), jit_compile=False)
        network.optimizer.build(network.trainable_variables)
    # One step of `fit` builds and traces; then its compiled step is called as `fit` calls it.
    first = input_pipeline.distributed(partial(input_pipeline.batches, store, windows, 0, 0, 1), strategy)
    network.fit(first, steps_per_epoch=1, verbose=0, shuffle=False)
    step = network.train_function
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in feeds}
    for round_ in range(epochs):
        for name, iterator in feeds.items():
            started, cpu = time.monotonic(), time.process_time()
            for _ in range(windows.steps):
                step(iterator)
            count = windows.steps * BATCH
            speed, cost = count / (time.monotonic() - started), (time.process_time() - cpu) / count
            if round_:  # The first round traces.
                rounds[name].append((speed, cost))
                print(f"round {round_}, from {name}: {speed:,.0f} examples/s, {cost * 1e6:.1f} CPU us each", flush=True)
    best = {name: max(speed for speed, _ in values) for name, values in rounds.items()}
    least = {name: min(cost for _, cost in values) for name, values in rounds.items()}
    print(f"best: {best['disk']:,.0f} examples/s from disk, {best['memory']:,.0f} from memory")
    print(f"speed, disk by memory: {best['disk'] / best['memory']:.3f}")
    print(f"CPU, disk by memory: {least['disk'] / least['memory']:.3f}")


def preprocessed(model: keras.Model, rows: LabelledExamples) -> RowStore:
    """(inputs, target) of all rows."""
    features, head, store = rows.schema.features, head_of(rows.schema), RowStore()
    preprocess = tf.function(lambda raw: model(raw, training=False), input_signature=[raw_features.specs(features)])
    for piece in rows.pieces():
        inputs = preprocess(raw_features.tensors(piece.columns, features))
        store.append((inputs, head.targets(piece.labels)[:, None]))
    return store.finish()


def from_memory(
    tensors: Any, windows: input_pipeline.Windows, epochs: int, share: int = 0, shares: int = 1
) -> tf.data.Dataset:
    """All epochs' batches of rows that are tensors in memory, each in a whole shuffle."""
    size = BATCH // shares

    def batch_of(step: tf.Tensor) -> Any:
        seeds = tf.stack([tf.constant(0, tf.int64), step // windows.steps])
        position = step % windows.steps * BATCH + share * size + tf.range(size, dtype=tf.int64)
        places = tf.random.experimental.index_shuffle(position, seeds, windows.rows - 1)
        return tf.nest.map_structure(lambda array: tf.gather(array, places), tensors)

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.autotune.enabled = False
    return (
        tf.data.Dataset.range(epochs * windows.steps)
        .map(batch_of, num_parallel_calls=1)
        .prefetch(4)
        .with_options(options)
    )


if __name__ == "__main__":
    main()
