"""LitServe, as its guide writes it, for `benchmarks.serving`; see `other_servers.py`.

    python litserve_server.py --port N --name MODEL --model FOLDER [--batch 8]

One worker: LitServe has a process for HTTP and one for the model.
"""

from __future__ import annotations

import argparse
from typing import Any

import litserve as ls
from other_servers import PATH, predictor


class Api(ls.LitAPI):
    """The model; a module-level class, because the worker is a process of its own that imports it."""

    folder = ""

    def setup(self, device: str) -> None:
        """Loads the model in the worker."""
        self.model = predictor(self.folder)

    def decode_request(self, request):  # LitServe reads the annotation, and takes none to be JSON.
        """The rows of a request."""
        return request["instances"]

    def batch(self, inputs: list[list[dict[str, Any]]]) -> Any:
        """The rows of several requests, and how many each has."""
        return [row for rows in inputs for row in rows], [len(rows) for rows in inputs]

    def predict(self, x: Any) -> Any:
        """Probabilities, for one request or for a batch."""
        if self.max_batch_size == 1:
            return self.model(x)
        rows, sizes = x
        return self.model(rows), sizes

    def unbatch(self, output: Any) -> list[list[float]]:
        """Each request's own."""
        answers, sizes = output
        ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
        return [answers[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    def encode_response(self, output):
        """TensorFlow Serving's row format."""
        return {"predictions": output}


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, default=1, help="requests that run together, waiting 1 ms for each other")
    args = parser.parse_args()
    waits = 0.001 if args.batch > 1 else 0.0
    api = Api(max_batch_size=args.batch, batch_timeout=waits, api_path=PATH.format(name=args.name))
    api.folder = args.model
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(port=args.port, host="127.0.0.1", log_level="error", access_log=False, generate_client_file=False)


if __name__ == "__main__":
    main()
