"""What compiling a pipeline costs, in CPU seconds: the first in a process, and the same once more.

    python -m benchmarks.compiling [PIPELINE ...]

TFX is imported before, by compiling a pipeline of another code; each pipeline has a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from airtight.home import Home

WARM_UP = "tests.tiny_pipeline.pipeline:create_pipeline"
PIPELINES = ("tests.tiny_pipeline.watching:create_watch", "flight_delays")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipelines", nargs="*", default=PIPELINES)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print("| {} | {:.2f} | {:.2f} |".format(options.alone, *compile_twice(options.alone)))
        return
    print("| pipeline | first, CPU s | again |\n|---|---:|---:|", flush=True)
    for pipeline in options.pipelines:
        subprocess.run([sys.executable, "-m", "benchmarks.compiling", "--alone", pipeline], check=True)


def compile_twice(pipeline: str) -> list[float]:
    """CPU seconds of each."""
    from runtime.compile import compile_pipeline

    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        compile_pipeline(WARM_UP, home)
        for _ in range(2):
            began = time.process_time()
            compile_pipeline(pipeline, home)
            seconds.append(time.process_time() - began)
    return seconds


if __name__ == "__main__":
    main()
