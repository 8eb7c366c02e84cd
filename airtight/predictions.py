"""The prediction log as the model server writes it and monitoring reads it: columns, and where its files lie.

`<root>/<model>/date=YYYY-MM-DD/<name>.parquet` are files that are finished, by the day of the request in UTC. Beside
them `.<name>.arrows` is a file that is still being written: an Arrow stream, readable as far as it goes.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

REQUEST, ROW, VERSION, SIGNATURE, TIME = "request_id", "row", "version", "signature", "time"
"""What names a row of the log (a request asked of two versions, or signatures, is two answers), and its instant."""
INPUT, OUTPUT = "input_", "output_"
"""A feature and an answer of one value a row are columns of these prefixes and their names."""
OTHER_INPUTS, OTHER_OUTPUTS = "inputs_json", "outputs_json"
"""The others, JSON objects by name: tensors with more dimensions, without a batch, and serialized tf.Examples."""
CALLER = "caller"
PERSONAL = (CALLER, REQUEST)
"""Columns beside features and answers that may be hashed; the caller's may be left out, too."""

JOURNAL = ".arrows"
"""How the name of a file that is still being written ends; it begins with a dot."""


def folder_of(root: Path, model: str) -> Path:
    """Where the log of a model lies; whatever the model is called, it lies below `root`."""
    quoted = quote(model, safe="")
    return root / (f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted)


def model_of(folder: Path) -> str:
    """The model whose log lies in a folder: `folder_of` the other way round."""
    return unquote(folder.name)
