"""What Keras 3, Keras 2, Estimators, TensorFlow Transform and tf.Module export is loaded, and answers as in process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tf_keras
import tfx
from tensorflow.core.protobuf import saved_model_pb2

from serving.errors import ServingError
from serving.loader import load
from tests.serving import models

pytestmark = pytest.mark.slow

TFX_TESTDATA = Path(tfx.__file__).parent / "components" / "testdata"
ROWS = 3
WORDS = np.array([b"b", b"a b", b"other"], object)


def dense(k) -> object:
    x = k.Input([4], name="x")
    hidden = k.layers.BatchNormalization()(k.layers.Dense(3, "gelu")(x))
    hidden = k.layers.Add()([hidden, k.layers.Dropout(0.1)(k.layers.LayerNormalization()(hidden))])
    outputs = {"class": k.layers.Dense(2, "softmax")(hidden), "value": k.layers.PReLU()(hidden)}
    return k.Model({"x": x}, outputs)


def images(k) -> object:
    image = k.Input([9, 10, 3], name="image")
    x = k.layers.CenterCrop(8, 8)(k.layers.Resizing(9, 9)(k.layers.Rescaling(1 / 255)(image)))
    x = k.layers.RandomContrast(0.1)(k.layers.RandomRotation(0.1)(k.layers.RandomFlip()(x)))
    x = k.layers.MaxPooling2D()(k.layers.Conv2D(4, 3, padding="same", activation="relu")(x))
    x = k.layers.DepthwiseConv2D(3, padding="same")(k.layers.SeparableConv2D(4, 3, padding="same")(x))
    x = k.layers.Conv2DTranspose(2, 2, strides=2)(k.layers.ZeroPadding2D()(x))
    x = k.layers.UpSampling2D(interpolation="bilinear")(k.layers.AveragePooling2D(2)(x))
    row = k.layers.Conv1D(2, 2)(k.layers.Reshape([-1, 2])(k.layers.Cropping2D(1)(x)))
    return k.Model(image, [k.layers.GlobalAveragePooling2D()(x), k.layers.GlobalMaxPooling1D()(row)])


def recurrent(k) -> object:
    steps = k.Input([3, 2], name="steps")  # Without a mask, which quadruples the time to load.
    return k.Model(steps, k.layers.LSTM(1)(steps))


def sequences(k) -> object:
    steps = k.Input([3, 2], name="steps")
    x = k.layers.Masking(0.0)(k.layers.TimeDistributed(k.layers.Dense(2))(steps))
    x = k.layers.Bidirectional(k.layers.SimpleRNN(2, return_sequences=True))(x)
    return k.Model(steps, k.layers.LSTM(2)(k.layers.GRU(2, return_sequences=True)(x)))


def attention(k) -> object:
    token = k.Input([6], dtype="int32", name="token")
    x = k.layers.Embedding(10, 4, mask_zero=True)(token)
    x = k.layers.LayerNormalization()(x + k.layers.MultiHeadAttention(2, 2)(x, x))
    both = [k.layers.Attention()([x, x]), k.layers.AdditiveAttention()([x, x])]
    return k.Model(token, k.layers.GlobalAveragePooling1D()(k.layers.Concatenate()(both)))


def text(k) -> object:
    words = k.Input([1], dtype="string", name="words")
    vectorize = k.layers.TextVectorization(max_tokens=9, output_sequence_length=4, vocabulary=["a", "b"])
    counts = k.layers.TextVectorization(ngrams=2, output_mode="multi_hot", vocabulary=["a", "b", "a b"])
    embedded = k.layers.Flatten()(k.layers.Embedding(9, 2)(vectorize(words)))
    return k.Model(words, [k.layers.Dense(1)(embedded), counts(words)])


def categories(k) -> object:
    word, number = k.Input([1], dtype="string", name="word"), k.Input([1], dtype="int64", name="number")
    index = k.layers.StringLookup(vocabulary=["a", "b"], num_oov_indices=2)(word)
    hashed = k.layers.Hashing(5)(word)
    encoded = k.layers.CategoryEncoding(num_tokens=5, output_mode="one_hot")(hashed)
    crossed = k.layers.HashedCrossing(7)((word, number))
    known = k.layers.IntegerLookup(vocabulary=[1, 2], output_mode="one_hot")(number)
    return k.Model([word, number], [index, encoded, crossed, known])


def numbers(k) -> object:
    x = k.Input([2], name="x")
    normal = k.layers.Normalization(mean=[0.0, 1.0], variance=[1.0, 2.0])(x)
    return k.Model(x, [normal, k.layers.Discretization([-1.0, 0.0, 1.0])(x), k.layers.UnitNormalization()(x)])


def export_keras_3(folder: Path, make: Callable) -> None:
    make(keras).export(str(folder), verbose=False)


def export_keras_2(folder: Path, make: Callable) -> None:
    make(tf_keras).export(str(folder))


KERAS_3 = [dense, images, attention, sequences, text, categories, numbers]
KERAS_2 = [dense, recurrent, text, categories, numbers]
"""Those of which Keras 2 makes another graph."""


def vocabulary_file(folder: Path) -> None:
    """A table that is filled from a file, which is exported as an asset."""
    file = folder.with_name("words.txt")
    file.write_text("a\nb\n")
    word = tf_keras.Input([1], dtype="string", name="word")
    model = tf_keras.Model(word, tf_keras.layers.StringLookup(vocabulary=str(file))(word))
    tf.saved_model.save(model, str(folder))
    file.unlink()


def feature_columns(folder: Path) -> None:
    """What Estimators write: tf.Examples parsed in the graph of TensorFlow 1, tables in its main_op, three methods."""
    v1, columns = tf.compat.v1, tf.feature_column
    made = [
        columns.numeric_column("age"),
        columns.bucketized_column(columns.numeric_column("age"), [20, 40]),
        columns.indicator_column(
            columns.categorical_column_with_vocabulary_list("kind", ["a", "b"], num_oov_buckets=1)
        ),
        columns.embedding_column(columns.categorical_column_with_hash_bucket("city", 7), 2),
    ]
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(0)  # Another test of this process may have made operations deterministic.
        examples = v1.placeholder(tf.string, [None], name="examples")
        parsed = v1.io.parse_example(examples, columns.make_parse_example_spec(made))
        logits = v1.layers.dense(v1.feature_column.input_layer(parsed, made), 2)
        classes = tf.tile(tf.constant([["no", "yes"]]), [tf.shape(logits)[0], 1])
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        describe, build = v1.saved_model.build_tensor_info, v1.saved_model.build_signature_def
        given = {"inputs": describe(examples)}
        scored = {"classes": describe(classes), "scores": describe(tf.nn.softmax(logits))}
        signatures = {
            "serving_default": build(given, scored, "tensorflow/serving/classify"),
            "regression": build(given, {"outputs": describe(logits[:, 0])}, "tensorflow/serving/regress"),
            "predict": build(
                {"examples": describe(examples)}, {"logits": describe(logits)}, "tensorflow/serving/predict"
            ),
        }
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures, main_op=v1.tables_initializer())
        builder.save()


def transform(folder: Path) -> None:
    """TFX's own way of serving: examples are parsed and go through TensorFlow Transform's graph, with vocabularies."""
    module, transformed = tf.Module(), tft.TFTransformOutput(str(TFX_TESTDATA / "transform" / "transform_graph"))
    spec = {name: transformed.raw_feature_spec()[name] for name in ("trip_miles", "payment_type", "pickup_latitude")}
    module.transform = transformed.transform_features_layer()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples):
        return module.transform(tf.io.parse_example(examples, spec))

    tf.saved_model.save(module, str(folder), signatures=serve)


def trained_by_tfx(folder: Path) -> None:
    """The model of penguins that TFX's Trainer has left in its tests."""
    shutil.copytree(TFX_TESTDATA / "trainer" / "keras" / "Format-Serving", folder)


class Functions(tf.Module):
    """Ragged text, images in bytes, a table that may change, a loop and a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.table.insert(tf.constant(["a"]), tf.constant([7], tf.int64))
        self.seen = tf.Variable(0, dtype=tf.int64)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def serve(self, words):
        letters = tf.strings.unicode_split(tf.strings.lower(words), "UTF-8")
        counted, _ = tf.while_loop(
            lambda n, i: i < 3,
            lambda n, i: (n + letters.row_lengths(), i + 1),
            [tf.zeros_like(letters.row_lengths()), 0],
        )
        sign = tf.cond(tf.size(words) > 1, lambda: tf.ones([], tf.int64), lambda: -tf.ones([], tf.int64))
        return {"first": letters[:, :2].to_tensor("_"), "known": self.table.lookup(words), "counted": sign * counted}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="jpeg")])
    def decode(self, jpeg):
        return {"image": tf.map_fn(lambda one: tf.io.decode_image(one, 3, expand_animations=False), jpeg, tf.uint8)}


def functions(folder: Path) -> None:
    module = Functions()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve, "decode": module.decode})


def example(**features: float | int | str) -> bytes:
    made = tf.train.Example()
    for name, value in features.items():
        feature = made.features.feature[name]
        if isinstance(value, str):
            feature.bytes_list.value.append(value.encode())
        elif isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            feature.float_list.value.append(value)
    return made.SerializeToString()


PEOPLE = [
    example(age=30.0, kind="b", city="x"),
    example(age=70.0, kind="?", city="y"),
    example(age=1.0, kind="a", city=""),
]
TRIPS = [
    example(trip_miles=1.5, payment_type="Cash", pickup_latitude=41.9),
    example(trip_miles=9.0, payment_type="Credit Card"),
]
PENGUINS = [
    example(culmen_length_mm=size, culmen_depth_mm=0.4, flipper_length_mm=0.5, body_mass_g=size) for size in (0.2, 0.9)
]
JPEG = tf.io.encode_jpeg(np.full([4, 4, 3], 100, np.uint8)).numpy()


def arrays_for(signature, texts: np.ndarray) -> list[np.ndarray]:
    """Rows for each input, `texts` for those of strings."""
    rng = np.random.default_rng(0)
    arrays = []
    for spec in signature.inputs:
        rows = len(texts) if any(one.text for one in signature.inputs) else ROWS
        shape = (rows, *(2 if size is None else size for size in (spec.shape or (None,))[1:]))
        if spec.text:
            arrays.append(texts.reshape(shape))
        elif spec.numpy.kind in "iu":
            arrays.append(rng.integers(0, 4, shape).astype(spec.numpy))
        else:
            arrays.append(rng.normal(size=shape).astype(spec.numpy))
    return arrays


def answers_as_in_process(path: Path, texts: dict[str, np.ndarray]) -> int:
    """Compares all signatures with what TensorFlow's own loader makes of them; how many there are.

    Args:
      path: The version's folder.
      texts: What inputs of strings are given, by signature; "" for the others.
    """
    loaded, restored = load(path, path.parent, 1), tf.saved_model.load(str(path))
    try:
        for name, signature in loaded.signatures.items():
            arrays = arrays_for(signature, texts.get(name, texts.get("", WORDS)))
            expected = restored.signatures[name](
                **{
                    spec.name: tf.constant(array, spec.dtype)
                    for spec, array in zip(signature.inputs, arrays, strict=True)
                }
            )
            for spec, output in zip(signature.outputs, signature.run(*arrays), strict=True):
                wanted = expected[spec.name].numpy()
                assert output.shape == wanted.shape and output.dtype == wanted.dtype, (name, spec.name)
                if spec.text:
                    assert output.tolist() == wanted.tolist(), (name, spec.name)
                else:
                    np.testing.assert_allclose(output, wanted, 1e-5, 1e-6, err_msg=f"{name} {spec.name}")
        return len(loaded.signatures)
    finally:
        loaded.close()


@pytest.mark.parametrize(
    ("export", "layers"),
    [
        *((export_keras_3, layers) for layers in KERAS_3),
        *((export_keras_2, layers) for layers in KERAS_2),
    ],
)
def test_layers_of_keras(tmp_path, export, layers):
    export(tmp_path / "1", layers)
    assert answers_as_in_process(tmp_path / "1", {}) >= 1


@pytest.mark.parametrize(
    ("save", "texts", "signatures"),
    [
        (vocabulary_file, {}, 1),
        (feature_columns, {"": np.array(PEOPLE, object)}, 3),
        (transform, {"": np.array(TRIPS, object)}, 1),
        (trained_by_tfx, {"": np.array(PENGUINS, object)}, 1),
        (functions, {"decode": np.array([JPEG] * 2, object)}, 2),
        (models.save_mixed, {}, 1),
        (models.save_half_plus_two, {"": np.array([example(x=1.0), example(x=2.0)], object)}, 3),
    ],
)
def test_what_tensorflow_exports(tmp_path, save, texts, signatures):
    save(tmp_path / "1")
    assert answers_as_in_process(tmp_path / "1", texts) == signatures


def test_an_operation_of_another_library_is_named(tmp_path):
    models.save_affine(tmp_path / "1", 1.0)
    file = tmp_path / "1" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph = saved.meta_graphs[0].graph_def
    forest = next(node for function in graph.library.function for node in function.node_def if node.op == "Mul")
    forest.op = "SimpleMLInferenceOpWithHandle"
    file.write_bytes(saved.SerializeToString())
    with pytest.raises(ServingError, match="SimpleMLInferenceOpWithHandle"):
        load(tmp_path / "1", tmp_path, 1)
