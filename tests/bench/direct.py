"""The floor: the least that a Python server of models can do. `python direct.py MODELS PORT`.

A protocol on uvloop that parses with httptools and answers infer itself, with no ASGI between. The
requests that come in one turn of the loop share a run, an answer leaves in one write. Nothing is
checked, counted, bounded or cancelled: what the real server costs above this is the price of its
features. MODELS is a repository of models with one input and one output, both float32.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import httptools
import numpy as np
import orjson
import uvloop
from inprocess import open_session

Floats = np.ndarray[Any, np.dtype[np.float32]]

READY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
MIDDLE = (
    b"server-timing: queue;dur=%de-6, compute;dur=%de-6\r\nx-request-id: %s\r\n"
    b"x-content-type-options: nosniff\r\ncache-control: no-store\r\ncontent-length: %d\r\n\r\n"
)
BINARY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n"
    b"inference-header-content-length: %d\r\n"
) + MIDDLE
JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + MIDDLE
STANDING_IN = (1234, 5678, b"0123456789abcdef")  # times and an id, which nobody measures or makes


class Model:
    """A session, and the requests that wait for the end of this turn of the loop."""

    def __init__(self, folder: Path) -> None:
        self._session = open_session(folder / "1" / "model.onnx", 1)
        self._name = folder.name
        self._input = self._session.get_inputs()[0].name
        self._outputs = [self._session.get_outputs()[0].name]
        self._waiting: list[tuple[Direct, Floats, bool]] = []

    def infer(self, connection: Direct, rows: Floats, binary: bool) -> None:
        """Have `rows` run at the end of the turn, and the answer written in the form asked for."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        self._waiting.append((connection, rows, binary))

    def _run(self) -> None:
        waiting, self._waiting = self._waiting, []
        batch = waiting[0][1]
        if len(waiting) > 1:
            batch = np.concatenate([rows for _, rows, _ in waiting])
        (found,) = self._session.run(self._outputs, {self._input: batch})
        at = 0
        for connection, rows, binary in waiting:
            end = at + len(rows)
            connection.transport.write(self._answer(found[at:end], binary))
            at = end

    def _answer(self, found: Floats, binary: bool) -> bytes:
        output: dict[str, Any] = {
            "name": self._outputs[0], "datatype": "FP32", "shape": list(found.shape),
        }  # fmt: skip
        told = {"model_name": self._name, "model_version": "1", "outputs": [output]}
        if binary:
            output["parameters"] = {"binary_data_size": found.nbytes}
            text, content = orjson.dumps(told), found.tobytes()
            length = len(text) + len(content)
            return BINARY % (len(text), *STANDING_IN, length) + text + content
        output["data"] = found.ravel()
        text = orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)
        return JSON % (*STANDING_IN, len(text)) + text


class Direct(asyncio.Protocol):
    """One connection; httptools calls the methods that begin with `on_`."""

    def __init__(self, models: dict[bytes, Model]) -> None:
        self._models = models
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url = self._body = b""
        self._text_length: int | None = None

    def on_url(self, url: bytes) -> None:
        self._url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"inference-header-content-length":
            self._text_length = int(value)

    def on_body(self, body: bytes) -> None:
        self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        model = self._models.get(self._url)
        if model is None:
            self.transport.write(READY)
            return
        body, length = self._body, self._text_length
        tensor = orjson.loads(body if length is None else body[:length])["inputs"][0]
        if length is None:
            rows = np.array(tensor["data"], np.float32)
        else:
            rows = np.frombuffer(body, np.float32, offset=length)
        model.infer(self, rows.reshape(tensor["shape"]), length is not None)


async def serve(models: Path, port: int) -> None:
    """Answer `POST /v2/models/{m}/infer`, and any other request with an empty 200."""
    found = {
        f"/v2/models/{folder.name}/infer".encode(): Model(folder) for folder in models.iterdir()
    }
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Direct(found), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
