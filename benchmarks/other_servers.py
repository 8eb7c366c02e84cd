"""The servers that `benchmarks.serving` measures beside this project's, each as its own guide writes it.

    python other_servers.py fastapi-raw|fastapi|none-rest|none-grpc --port N --model FOLDER

They run in an environment of their own (`requirements/bench-servers.txt`) with the project's TensorFlow, load the same
SavedModel with `tf.saved_model.load` and call its signature; a request and its answer are those of TensorFlow Serving's
row format. `none-rest` and `none-grpc` answer without looking, to show what the load generator can drive.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

PATH = "/v1/models/{name}:predict"


def signature(folder: str) -> tuple[Any, dict[str, Any]]:
    """The model's signature and the dtype of each input."""
    import tensorflow as tf

    loaded = tf.saved_model.load(folder)
    called = loaded.signatures["serving_default"]
    called.loaded = loaded  # It holds the variables.
    return called, {name: spec.dtype for name, spec in called.structured_input_signature[1].items()}


def predictor(folder: str) -> Callable[[list[dict[str, Any]]], list[float]]:
    """From rows to probabilities."""
    import tensorflow as tf

    called, dtypes = signature(folder)

    def predict(rows: list[dict[str, Any]]) -> list[float]:
        columns = {name: tf.constant([row[name] for row in rows], dtype) for name, dtype in dtypes.items()}
        return called(**columns)["probability"].numpy().tolist()

    return predict


def fastapi_raw(port: int, name: str, folder: str) -> None:
    """One async route that parses and answers by orjson: FastAPI with as little around it as can be."""
    import fastapi
    import orjson
    import uvicorn

    predict, app = predictor(folder), fastapi.FastAPI()

    async def route(request: Any) -> Any:
        document = orjson.loads(await request.body())
        answer = orjson.dumps({"predictions": predict(document["instances"])})
        return fastapi.Response(answer, media_type="application/json")

    route.__annotations__ = {"request": fastapi.Request, "return": fastapi.Response}
    app.post(PATH.format(name=name))(route)
    uvicorn.run(app, port=port, log_level="error", access_log=False)


def fastapi_ordinary(port: int, name: str, folder: str) -> None:
    """A typed model for the request and one for the answer, and a plain function, which FastAPI runs in threads."""
    import fastapi
    import pydantic
    import uvicorn

    predict, app = predictor(folder), fastapi.FastAPI()
    _, dtypes = signature(folder)
    fields: dict[str, Any] = {key: (str if dtype.name == "string" else float, ...) for key, dtype in dtypes.items()}
    row = pydantic.create_model("Row", **fields)
    request_model = pydantic.create_model("Asked", instances=(list[row], ...))  # type: ignore[valid-type]
    answered = pydantic.create_model("Answered", predictions=(list[float], ...))

    def route(request: Any) -> Any:
        return answered(predictions=predict([one.model_dump() for one in request.instances]))

    route.__annotations__ = {"request": request_model, "return": answered}
    app.post(PATH.format(name=name))(route)
    uvicorn.run(app, port=port, log_level="error", access_log=False)


def none_rest(port: int) -> None:
    """Answers every POST alike."""
    import uvloop

    answer = b'{"predictions":[0.5]}'
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer

    class Http(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.left = transport, 0

        def data_received(self, data: bytes) -> None:
            if not self.left:
                head, _, rest = data.partition(b"\r\n\r\n")
                self.left = int(head.rpartition(b"Content-Length: ")[2]) - len(rest)
            else:
                self.left -= len(data)
            if not self.left:
                self.transport.write(whole)

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(Http, "127.0.0.1", port)
        await server.serve_forever()

    uvloop.run(serve())


def none_grpc(port: int) -> None:
    """Answers every call alike, with grpc.aio and without looking at the message."""
    import grpc
    import uvloop

    class Any_(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            async def answer(request: bytes, context: Any) -> bytes:
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    async def serve() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Any_(),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    uvloop.run(serve())


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="")
    parser.add_argument("--model", default="")
    args = parser.parse_args()
    kinds: dict[str, Callable[[], None]] = {
        "fastapi-raw": lambda: fastapi_raw(args.port, args.name, args.model),
        "fastapi": lambda: fastapi_ordinary(args.port, args.name, args.model),
        "none-rest": lambda: none_rest(args.port),
        "none-grpc": lambda: none_grpc(args.port),
    }
    kinds[args.kind]()


if __name__ == "__main__":
    main()
