"""Runs one of TFX's examples through TFX's LocalDagRunner: `python -m tests.tfx_examples.reference NAME`."""

import os
import sys
from pathlib import Path

from tests.tfx_examples import examples
from tests.tiny_pipeline.reference import run_where_it_says

if __name__ == "__main__":
    name = sys.argv[1]
    # What executors would read of them.
    del sys.argv[1:]
    run_where_it_says(getattr(examples, name)(), Path(os.environ["TFX_EXAMPLES_OUT"]) / name / "metadata.sqlite")
