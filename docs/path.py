"""Show which files one warm inference crosses, counted by tracing its calls.

    python docs/path.py

A server runs on a loopback port in a thread of this process, behind its own HTTP edge. A model of
one node is called until everything is warm; then the calls of one more inference are recorded, on
the caller's thread for the client and on the event loop's for the server.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import numpy as np
import uvicorn
from onnx import TensorProto, helper

from aiaas_client import Client
from aiaas_server.app import Application, create_app
from aiaas_server.http.edge.connection import make_protocol
from aiaas_server.process import edge_limits
from aiaas_server.settings import Settings

ROOT = Path(__file__).parents[1]
PACKAGES = (str(ROOT / "aiaas_client"), str(ROOT / "aiaas_server"))
WARM = 50  # calls before the recorded one

Files = list[str]  # files, relative to the root, in the order in which they are first called


class Recorder:
    """A profile function that notes the files of our packages whose functions are called."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.is_on = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if self.is_on and event == "call":
            name = frame.f_code.co_filename
            if name.startswith(PACKAGES):
                self.files.setdefault(str(Path(name).relative_to(ROOT)))


def doubling() -> bytes:
    """`y = x + x` over `[batch, 4]`."""
    given, got = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"
    )
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [given], [got])
    opsets = [helper.make_opsetid("", 17)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


@contextmanager
def serving(app: Application, recorder: Recorder) -> Iterator[str]:
    """Serve `app` behind the server's own edge; its event loop is recorded. Gives the URL."""
    loop_of: list[asyncio.AbstractEventLoop] = []
    loaded = threading.Event()

    async def announcing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            loop_of.append(asyncio.get_running_loop())
            sys.setprofile(recorder)
            await app.start()
            loaded.set()
        await app(scope, receive, send)

    http: Any = make_protocol(edge_limits(app.settings), hot=app.hot)
    config = uvicorn.Config(announcing, http=http, log_level="warning", lifespan="on", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            if not loaded.wait(60):
                raise RuntimeError("the server did not start")
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def measure() -> tuple[Files, Files]:
    """The files that one warm inference crosses: the client's, then the server's."""
    ours, theirs = Recorder(), Recorder()
    with TemporaryDirectory() as directory:
        models = Path(directory)
        (models / "double.onnx").write_bytes(doubling())
        app = create_app(Settings(models=models))
        with serving(app, theirs) as url, Client(url) as client:
            model = client.model("double")
            rows = np.ones((1, 4), np.float32)
            for _ in range(WARM):
                model.infer(x=rows)
            with recording(ours, theirs):
                model.infer(x=rows)
    return list(ours.files), list(theirs.files)


@contextmanager
def recording(ours: Recorder, theirs: Recorder) -> Iterator[None]:
    """Record the calls made in the block."""
    before: Callable[..., Any] | None = sys.getprofile()
    sys.setprofile(ours)
    ours.is_on = theirs.is_on = True
    try:
        yield
    finally:
        ours.is_on = theirs.is_on = False
        sys.setprofile(before)


def lines_of(file: str) -> int:
    """How many lines a file has."""
    return len((ROOT / file).read_text("utf-8").splitlines())


def told(title: str, files: Files) -> str:
    """The files as text, one a line, with their lines and the sums."""
    rows = [f"  {file:<52} {lines_of(file):>5}" for file in files]
    total = sum(map(lines_of, files))
    return "\n".join([f"{title}: {len(files)} files, {total} lines", *rows])


if __name__ == "__main__":
    client_files, server_files = measure()
    print(told("client", client_files))
    print(told("server", server_files))
