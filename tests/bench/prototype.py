"""The floor behind ASGI: one model and no features. `python prototype.py MODEL.onnx PORT`.

The work of `direct.py` as an ASGI function on uvicorn: what it costs above that is ASGI's.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from echo import run
from inprocess import open_session

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Prototype:
    """The ASGI application."""

    def __init__(self, path: str) -> None:
        self._session = open_session(Path(path), 1)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._waiting: list[tuple[Floats, asyncio.Future[list[Any]]]] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        if not body:
            await _answer(send, b"ok", [])
            return
        headers = dict(scope["headers"])
        length = headers.get(b"inference-header-content-length")
        if length is None:
            tensor = orjson.loads(body)["inputs"][0]
            image = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
            content = orjson.dumps(self._json(await self._infer(image)), default=_plain)
            await _answer(send, content, [])
            return
        header = orjson.loads(body[: int(length)])
        image = np.frombuffer(body, np.float32, offset=int(length))
        found = await self._infer(image.reshape(header["inputs"][0]["shape"]))
        head = orjson.dumps(self._json(found, binary=True))
        parts = [(b"inference-header-content-length", b"%d" % len(head))]
        await _answer(send, b"".join([head, *(array.tobytes() for array in found)]), parts)

    def _infer(self, image: Floats) -> asyncio.Future[list[Any]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._run)
        self._waiting.append((image, future))
        return future

    def _run(self) -> None:
        waiting, self._waiting = self._waiting, []
        images = np.concatenate([image for image, _ in waiting])
        outputs = self._session.run(None, {self._input: images})
        for at, (_, future) in enumerate(waiting):
            future.set_result([output[at : at + 1] for output in outputs])

    def _json(self, found: list[Any], *, binary: bool = False) -> dict[str, Any]:
        outputs = []
        for name, array in zip(self._outputs, found, strict=True):
            one = {"name": name, "shape": array.shape, "datatype": "FP32"}
            if binary:
                one["parameters"] = {"binary_data_size": array.nbytes}
            else:
                one["data"] = array
            outputs.append(one)
        return {"model_name": "digits", "model_version": "1", "outputs": outputs}


def _plain(value: Any) -> Any:
    return value.ravel().tolist()


async def _answer(send: Any, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers.append((b"content-type", b"application/octet-stream"))
    headers.append((b"content-length", b"%d" % len(content)))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": content})


if __name__ == "__main__":
    run(Prototype(sys.argv[1]), int(sys.argv[2]))
