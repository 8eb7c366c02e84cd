"""Data for TFX's examples: what its wheel ships, and data of the same form for what it leaves out."""

import random
import shutil
from pathlib import Path

MEASURES = ("culmen_length_mm", "culmen_depth_mm", "flipper_length_mm", "body_mass_g")
# One line for each species: where its normalized measures lie.
SPECIES = ((0.25, 0.6, 0.3, 0.3), (0.6, 0.65, 0.4, 0.28), (0.55, 0.25, 0.8, 0.65))
PIXELS, DIGITS = 784, 10


def make(folder: Path) -> None:
    """Makes the data of all examples below a folder."""
    import tfx.examples

    shipped = Path(next(iter(tfx.examples.__path__)))
    draw = random.Random(1)
    _penguins(folder / "penguin" / "labelled" / "penguins_processed.csv", draw, 340)
    _penguins(folder / "penguin" / "unlabelled" / "penguins_processed.csv", draw, 30, labelled=False)
    _penguins(folder / "penguin" / "skewed" / "penguins_processed.csv", draw, 340)
    for day in (1, 2):
        _penguins(folder / "spans" / "labelled" / f"day{day}" / "penguins_processed.csv", draw, 340)
    (folder / "penguin" / "schema.pbtxt").write_text(_schema())
    for place in ("chicago_taxi_pipeline/data/simple", "imdb/data"):
        shutil.copytree(shipped / place, folder / place.partition("/")[0])
    _digits(folder / "mnist" / "digits.tfrecord", draw)


def _penguins(path: Path, draw: random.Random, rows: int, *, labelled: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join((*(["species"] if labelled else []), *MEASURES))]
    for row in range(rows):
        species = row % len(SPECIES)
        measures = [f"{min(1, max(0, draw.gauss(mean, 0.08))):.4f}" for mean in SPECIES[species]]
        lines.append(",".join([*([str(species)] if labelled else []), *measures]))
    path.write_text("\n".join(lines) + "\n")


def _schema() -> str:
    kinds = dict.fromkeys(MEASURES, "FLOAT") | {"species": "INT"}
    return "".join(
        f'feature {{ name: "{name}" type: {kind} presence {{ min_fraction: 1.0 min_count: 1 }} '
        "shape { dim { size: 1 } } }\n"
        for name, kind in kinds.items()
    )


def _digits(path: Path, draw: random.Random) -> None:
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    shapes = [[draw.uniform(-0.4, 0.4) for _ in range(PIXELS)] for _ in range(DIGITS)]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in range(500):
            digit = row % DIGITS
            pixels = [min(0.5, max(-0.5, pixel + draw.uniform(-0.1, 0.1))) for pixel in shapes[digit]]
            example = tf.train.Example()
            example.features.feature["image_floats"].float_list.value[:] = pixels
            example.features.feature["image_class"].int64_list.value[:] = [digit]
            writer.write(example.SerializeToString())
