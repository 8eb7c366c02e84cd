"""What a user hands to TFX's Trainer: a model of a few steps that takes serialized tf.Example."""

import numpy
import tensorflow as tf
from tfx.components.trainer.fn_args_utils import FnArgs

FEATURES = ("width", "height")
LABEL = "large"


class Serving(tf.Module):
    """The trained model behind the signature that TFX's Evaluator calls."""

    def __init__(self, model: tf.keras.Model) -> None:
        super().__init__()
        self.model = model

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores serialized examples."""
        parsed = tf.io.parse_example(examples, {name: tf.io.FixedLenFeature([1], tf.int64) for name in FEATURES})
        rows = tf.concat([tf.cast(parsed[name], tf.float32) for name in FEATURES], axis=1)
        return {"output": self.model(rows)}


def run_fn(fn_args: FnArgs) -> None:
    """Trains and exports."""
    tf.keras.utils.set_random_seed(1)
    files = tf.io.gfile.glob(fn_args.train_files)
    spec = {name: tf.io.FixedLenFeature([1], tf.int64) for name in (*FEATURES, LABEL)}
    rows = [tf.io.parse_single_example(raw, spec) for raw in tf.data.TFRecordDataset(files, compression_type="GZIP")]
    features = numpy.array([[float(row[name][0]) for name in FEATURES] for row in rows], dtype="float32")
    labels = numpy.array([float(row[LABEL][0]) for row in rows], dtype="float32")
    model = tf.keras.Sequential([tf.keras.Input((2,)), tf.keras.layers.Dense(1, activation="sigmoid")])
    model.compile(tf.keras.optimizers.Adam(0.1), "binary_crossentropy")
    model.fit(features, labels, epochs=fn_args.train_steps, verbose=0)
    serving = Serving(model)
    tf.saved_model.save(serving, fn_args.serving_model_dir, {"serving_default": serving.serve})
