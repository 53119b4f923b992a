"""The least an ASGI server can do. `python echo.py FORM PORT`.

`bytes` sends the request's body back. `json` reads the body's numbers into an array and writes
them back, with orjson: what any server pays that takes tensors as JSON. `short` answers ten of
them, as the network does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import uvicorn


def _unchanged(body: bytes) -> bytes:
    return body


def _array(body: bytes) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    request = orjson.loads(body)
    tensor = request["inputs"][0]
    return tensor, np.array(tensor["data"], np.float32).reshape(tensor["shape"])


def _json(body: bytes) -> bytes:
    tensor, array = _array(body)
    tensor["data"] = array.ravel()
    return orjson.dumps({"outputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)


def _short(body: bytes) -> bytes:
    tensor, array = _array(body)
    tensor["data"] = array.ravel()[:10]
    return orjson.dumps({"outputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)


FORMS: dict[str, Callable[[bytes], bytes]] = {"bytes": _unchanged, "json": _json, "short": _short}


class Echo:
    """The ASGI application."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body = body + message["body"] if body else message["body"]
            if not message.get("more_body"):
                break
        body = self._answer(body) if body else body
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def run(app: Any, port: int) -> None:
    """Serve `app` on uvicorn's fastest settings."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    run(Echo(FORMS[sys.argv[1]]), int(sys.argv[2]))
