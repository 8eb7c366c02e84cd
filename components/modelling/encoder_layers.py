"""What is computed of raw features once for all epochs: codes of one length, hashes of words, pixels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

_register = keras.saving.register_keras_serializable("airtight")


@_register
class FixedLength(layers.Layer):
    """Codes [batch, any] cut, or filled with 0, to [batch, length]."""

    def __init__(self, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length

    def call(self, codes: Any) -> Any:
        """Cuts and fills."""
        codes = codes[:, : self.length]
        filled = tf.pad(codes, [[0, 0], [0, self.length - tf.shape(codes)[1]]])
        return tf.ensure_shape(filled, [None, self.length])

    def compute_output_spec(self, codes: Any) -> keras.KerasTensor:
        """Of one length."""
        return keras.KerasTensor((codes.shape[0], self.length), codes.dtype)

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "length": self.length}


@_register
class HashedWords(layers.Layer):
    """Texts [batch] as hashes, from 1, of their words and pairs of words, int32 [batch, length]; 0 behind the last."""

    def __init__(self, buckets: int, length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.buckets, self.length = buckets, length

    def call(self, texts: Any) -> Any:
        """Words are what lies between everything that is neither letter nor digit, in lower case."""
        plain = tf.strings.regex_replace(tf.strings.lower(texts, encoding="utf-8"), r"[^\p{L}\p{N}]+", " ")
        words = tf.strings.ngrams(tf.strings.split(plain), (1, 2))
        codes = tf.ragged.map_flat_values(tf.strings.to_hash_bucket_fast, words, self.buckets) + 1
        return tf.cast(codes.to_tensor(0, shape=[None, self.length]), tf.int32)

    def compute_output_spec(self, texts: Any) -> keras.KerasTensor:
        """Of one length."""
        return keras.KerasTensor((texts.shape[0], self.length), "int32")

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "buckets": self.buckets, "length": self.length}


@_register
class Standardized(layers.Layer):
    """Vectors [batch, length] less their mean, by their standard deviation; NaN becomes 0."""

    def __init__(self, mean: list[float], deviation: list[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean, self.deviation = mean, deviation

    def call(self, vectors: Any) -> Any:
        """Standardizes."""
        values = (vectors - np.array(self.mean, np.float32)) / np.array(self.deviation, np.float32)
        return ops.where(ops.isnan(values), 0.0, values)

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "mean": self.mean, "deviation": self.deviation}


@_register
class DecodedImage(layers.Layer):
    """Bytes of PNG, JPEG, GIF or BMP [batch] as pixels, uint8 [batch, size, size, 3]; no bytes are black."""

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size

    def call(self, images: Any) -> Any:
        """Decodes and resizes; bytes that are no image raise `InvalidArgumentError`."""
        return tf.map_fn(self._pixels, images, fn_output_signature=tf.TensorSpec([self.size, self.size, 3], tf.uint8))

    def _pixels(self, image: Any) -> Any:
        shape = [self.size, self.size]

        def decoded() -> Any:
            pixels = tf.io.decode_image(image, channels=3, expand_animations=False)
            return tf.cast(tf.round(tf.image.resize(pixels, shape, antialias=True)), tf.uint8)

        return tf.cond(tf.strings.length(image) == 0, lambda: tf.zeros([*shape, 3], tf.uint8), decoded)

    def compute_output_spec(self, images: Any) -> keras.KerasTensor:
        """Of one size."""
        return keras.KerasTensor((images.shape[0], self.size, self.size, 3), "uint8")

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "size": self.size}


@_register
class LogReference(layers.Layer):
    """log(number + 1), float32 [batch, 1], of a number [batch] of 0 or more.

    Args:
      missing: Stands for a number that is missing.
    """

    def __init__(self, missing: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.missing = missing

    def call(self, number: Any) -> Any:
        """The logarithm."""
        return tf.math.log1p(tf.nn.relu(tf.where(tf.math.is_nan(number), self.missing, number)))[:, None]

    def compute_output_spec(self, number: Any) -> keras.KerasTensor:
        """One place for each row."""
        return keras.KerasTensor((number.shape[0], 1), "float32")

    def get_config(self) -> dict[str, Any]:
        """As Keras keeps it."""
        return {**super().get_config(), "missing": self.missing}
