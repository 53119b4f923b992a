"""The least an ASGI server can do: it sends each request's body back. `python echo.py PORT`."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application."""
    body = b""
    while True:
        message = await receive()
        body = body + message["body"] if body else message["body"]
        if not message.get("more_body"):
            break
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
    run(echo, int(sys.argv[1]))
