"""The kinds of features: how each is checked, stored, and given to a model, in Spark, Arrow, NumPy and TensorFlow."""

from components.data.feature_kinds.kinds import KINDS, kind_of, parse_specs
from components.data.feature_kinds.single import IMAGE_HEADS, IMAGE_TAILS, Text, is_image

__all__ = ["IMAGE_HEADS", "IMAGE_TAILS", "KINDS", "Text", "is_image", "kind_of", "parse_specs"]
